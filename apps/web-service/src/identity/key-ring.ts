/**
 * The Ed25519 keys that sign tokens, with overlap: the newest that is active signs, and those before it are believed until
 * whatever they signed has expired. The first is the one of the signing-key file; later ones are rows, sealed under it.
 *
 *   1. A new key signs only once every replica has heard of it: from `activeAt` on, later than a change takes to be heard.
 *   2. A key is believed for as long after its successor became active as any token lives.
 *   3. A row holds no key that can be read without the file (AES-256-GCM under a key derived from it).
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from "node:crypto";
import { calculateJwkThumbprint, type JWK } from "jose";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Clock } from "../store/database-clock.js";
import type { SigningKey } from "./signing-key.js";

/** Until a new key signs: twice the 5 s in which every replica has heard of it (1). */
const ACTIVE_AFTER_S = 10;
/** The longest life of any token, and some (2). */
const BELIEVED_MS = 90 * 60_000;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** A key as others may see it. */
export interface KeyInfo {
  readonly kid: string;
  readonly activeAt: Date | undefined;
  readonly signs: boolean;
}

interface Entry extends SigningKey {
  /** -Infinity for the file's key. */
  readonly activeAtMs: number;
}

export class KeyRing {
  readonly #pool: Pool;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #file: Entry;
  readonly #seal: Buffer;
  /** The oldest first. */
  #keys: readonly Entry[];
  /** Those that this file's key does not open: told of once. */
  readonly #foreign = new Set<string>();
  #loading: Promise<void> = Promise.resolve();

  private constructor(file: SigningKey, pool: Pool, clock: Clock, log: Logger) {
    this.#pool = pool;
    this.#clock = clock;
    this.#log = log;
    this.#file = { ...file, activeAtMs: Number.NEGATIVE_INFINITY };
    this.#seal = this.derive("farloom token keys");
    this.#keys = [this.#file];
  }

  /** Resolves once it has read the rows. */
  static async open(file: SigningKey, pool: Pool, clock: Clock, log: Logger): Promise<KeyRing> {
    const ring = new KeyRing(file, pool, clock, log);
    await ring.load();
    return ring;
  }

  /** What signs now. */
  get signing(): SigningKey {
    const nowMs = this.#clock.nowMs();
    return this.#keys.findLast((key) => key.activeAtMs <= nowMs) ?? this.#file;
  }

  /** The key that a token names, while it is believed. */
  find(kid: string | undefined): KeyObject | undefined {
    const at = this.#keys.findIndex((key) => key.kid === kid);
    return at >= 0 && this.#isBelieved(at) ? this.#keys[at]!.publicKey : undefined;
  }

  /** What is believed, for whoever verifies tokens elsewhere (RFC 7517). */
  jwks(): { keys: JWK[] } {
    const believed = this.#keys.filter((_key, at) => this.#isBelieved(at));
    return {
      keys: believed.map(({ publicKey, kid }) => {
        return { ...(publicKey.export({ format: "jwk" }) as JWK), kid, use: "sig", alg: "EdDSA" };
      }),
    };
  }

  list(): KeyInfo[] {
    const { kid } = this.signing;
    return this.#keys
      .filter((_key, at) => this.#isBelieved(at))
      .map((key) => ({
        kid: key.kid,
        activeAt: Number.isFinite(key.activeAtMs) ? new Date(key.activeAtMs) : undefined,
        signs: key.kid === kid,
      }));
  }

  /** Makes the next key. It signs in ten seconds, when all replicas have heard of it. */
  async rotate(): Promise<{ kid: string; activeAt: Date }> {
    const { privateKey, publicKey } = generateKeyPairSync("ed25519");
    const kid = await calculateJwkThumbprint(publicKey.export({ format: "jwk" }));
    const { rows } = await this.#pool.query<{ active_at: Date }>(
      `INSERT INTO token_key (kid, public_key, sealed, active_at)
       VALUES ($1, $2, $3, now() + $4 * interval '1 second') RETURNING active_at`,
      [
        kid,
        publicKey.export({ format: "der", type: "spki" }),
        this.#sealed(kid, privateKey.export({ format: "der", type: "pkcs8" })),
        ACTIVE_AFTER_S,
      ],
    );
    await this.load();
    return { kid, activeAt: rows[0]!.active_at };
  }

  /** A secret of this service for another purpose: the same on every replica, and none where the file differs. */
  derive(purpose: string): Buffer {
    const seed = this.#file.privateKey.export({ format: "der", type: "pkcs8" });
    return Buffer.from(hkdfSync("sha256", seed, "farloom", purpose, 32));
  }

  /** Reads the rows again, one reading after the other. Where they cannot be read, what is known stays. */
  load(): Promise<void> {
    this.#loading = this.#loading
      .then(() => this.#read())
      .catch((err) => this.#log.warn({ err }, "the keys of tokens could not be read"));
    return this.#loading;
  }

  async #read(): Promise<void> {
    const { rows } = await this.#pool.query<{ kid: string; sealed: Buffer; active_at: Date }>(
      "SELECT kid, sealed, active_at FROM token_key ORDER BY active_at, kid",
    );
    const keys: Entry[] = [this.#file];
    for (const row of rows) {
      const known = this.#keys.find((key) => key.kid === row.kid);
      const privateKey = known?.privateKey ?? this.#unsealed(row.kid, row.sealed);
      if (privateKey === undefined) continue;
      const publicKey = createPublicKey(privateKey);
      keys.push({ kid: row.kid, privateKey, publicKey, activeAtMs: row.active_at.getTime() });
    }
    this.#keys = keys;
  }

  #isBelieved(at: number): boolean {
    const next = this.#keys[at + 1];
    return next === undefined || this.#clock.nowMs() < next.activeAtMs + BELIEVED_MS;
  }

  #sealed(kid: string, key: Buffer): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", this.#seal, nonce).setAAD(Buffer.from(kid));
    return Buffer.concat([nonce, cipher.update(key), cipher.final(), cipher.getAuthTag()]);
  }

  #unsealed(kid: string, sealed: Buffer): KeyObject | undefined {
    try {
      const nonce = sealed.subarray(0, NONCE_BYTES);
      const tag = sealed.subarray(sealed.length - TAG_BYTES);
      const decipher = createDecipheriv("aes-256-gcm", this.#seal, nonce, { authTagLength: TAG_BYTES });
      decipher.setAAD(Buffer.from(kid)).setAuthTag(tag);
      const body = sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES);
      const key = Buffer.concat([decipher.update(body), decipher.final()]);
      return createPrivateKey({ key, format: "der", type: "pkcs8" });
    } catch {
      // Sealed under another file's key: that file was replaced, which is how all that it guarded is given up.
      if (!this.#foreign.has(kid))
        this.#log.warn({ kid }, "a key of tokens was sealed under another signing-key file; it is not used");
      this.#foreign.add(kid);
      return undefined;
    }
  }
}
