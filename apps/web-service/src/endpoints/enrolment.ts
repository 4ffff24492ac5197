/**
 * How an agent becomes an endpoint's, and proves it afterwards; nothing that is stored can be replayed.
 *
 *   1. A one-time code, valid for ten minutes, hands the endpoint to whoever brings it first, with a public key.
 *      The code is kept as its SHA-256 and is used up by the same statement that stores the key.
 *   2. To connect, the agent signs a one-time nonce together with the host it believes it speaks to, so that a
 *      signature made for one service is worth nothing at another.
 *   3. A new key is handed in with the signatures of both, the old and the new one, over a one-time nonce.
 */
import { createHash, createPublicKey, type KeyObject, randomBytes, verify } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import type { PrismaClient } from "../generated/prisma/client.js";
import { type Identity, keyPrint } from "../identity/identity.js";
import type { Principal } from "../identity/principal.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { fromBuffer, toBuffer } from "../support/bytes.js";
import type { EndpointRecord } from "./registry.js";

export const ENROLMENT_CODE_LIFE_MS = 10 * 60_000;
export const CHALLENGE_LIFE_MS = 30_000;
/**
 * Open challenges of one endpoint. An agent needs one; the rest is somebody's idea of fun, and anybody who may see the
 * endpoint knows its id. So one more makes the oldest void: were it refused, they could keep the agent out. An address that asks
 * as often as it may voids a nonce in a second, which an agent does not need.
 */
const MAX_OPEN_CHALLENGES = 1_000;
/** What comes before a raw Ed25519 key in its DER form (RFC 8410). */
const ED25519_SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");
const CODE = /^fle_([0-9a-f]{32})_([A-Za-z0-9_-]{32})$/;

export class Enrolment {
  readonly #prisma: PrismaClient;
  readonly #pool: Pool;
  readonly #tenants: TenantPool;
  readonly #identity: Identity;

  /** @param database `prisma` and `pool` for what agents ask, who are nobody before they have proved it */
  constructor(
    database: { readonly prisma: PrismaClient; readonly pool: Pool; readonly tenants: TenantPool },
    identity: Identity,
  ) {
    this.#prisma = database.prisma;
    this.#pool = database.pool;
    this.#tenants = database.tenants;
    this.#identity = identity;
  }

  /** By the clock that all replicas share. */
  #afterNow(ms: number): Date {
    return new Date(this.#identity.clock.nowMs() + ms);
  }

  /** A new code for somebody's own endpoint; one that was made before is void. @throws FarloomError ENDPOINT_NOT_FOUND */
  async newCode(
    { ownerId }: Principal,
    endpoint: EndpointRecord,
  ): Promise<{ code: string; expiresAt: Date }> {
    const code = `fle_${endpoint.id.replaceAll("-", "")}_${randomBytes(24).toString("base64url")}`;
    const expiresAt = this.#afterNow(ENROLMENT_CODE_LIFE_MS);
    const { rowCount } = await this.#tenants.query(ownerId, {
      text: `UPDATE endpoint SET enrol_hash = $3, enrol_expires_at = $4
             WHERE id = $2 AND owner_id = $1 AND deleted_at IS NULL`,
      values: [ownerId, endpoint.id, sha256(code), expiresAt],
    });
    if (rowCount === 0) throw new FarloomError("ENDPOINT_NOT_FOUND", { id: endpoint.id });
    return { code, expiresAt };
  }

  /** Uses up the code (1). @throws FarloomError ENROLMENT_CODE_INVALID, REQUEST_INVALID (not a key, not the name) */
  async enroll(request: {
    readonly code: string;
    readonly publicKey: Buffer;
    readonly name?: string;
  }): Promise<{ endpointId: string; name: string; owner: string }> {
    const { code, publicKey, name } = request;
    toKeyObject(publicKey);
    const match = CODE.exec(code);
    if (!match) throw new FarloomError("ENROLMENT_CODE_INVALID");
    const id = match[1]!.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
    const hash = sha256(code);
    const now = this.#afterNow(0);
    // One statement finds and uses up: of any number at once, PostgreSQL lets one match.
    const { rows } = await this.#pool.query<{ name: string; owner: string }>({
      name: "enrol",
      text: `UPDATE endpoint e SET public_key = $4, enrol_hash = NULL, enrol_expires_at = NULL FROM owner o
             WHERE e.id = $1 AND e.enrol_hash = $2 AND e.enrol_expires_at > $3 AND e.deleted_at IS NULL AND o.id = e.owner_id
               AND ($5::text IS NULL OR e.name = $5)
             RETURNING e.name, o.name AS owner`,
      values: [id, hash, now, publicKey, name],
    });
    if (rows[0]) return { endpointId: id, ...rows[0] };
    if (name !== undefined) await this.#requireNamed([id, hash, now]);
    throw new FarloomError("ENROLMENT_CODE_INVALID");
  }

  /** Says whose code it is to whoever has it, and meant another endpoint. @throws FarloomError REQUEST_INVALID */
  async #requireNamed(of: readonly unknown[]): Promise<void> {
    const { rows } = await this.#pool.query<{ name: string }>({
      name: "enrol-named",
      text: `SELECT name FROM endpoint WHERE id = $1 AND enrol_hash = $2 AND enrol_expires_at > $3 AND deleted_at IS NULL`,
      values: [...of],
    });
    if (rows[0])
      throw new FarloomError("REQUEST_INVALID", { detail: `the code is for the endpoint "${rows[0].name}"` });
  }

  /** A nonce to sign. @throws FarloomError ENDPOINT_NOT_FOUND */
  async challenge(endpointId: string): Promise<{ nonce: string; expiresInMs: number }> {
    const endpoint = await this.#prisma.endpoint.findFirst({
      where: { id: endpointId, deletedAt: null, publicKey: { not: null } },
      select: { id: true },
    });
    if (!endpoint) throw new FarloomError("ENDPOINT_NOT_FOUND", { id: endpointId });
    await this.#prisma.agentChallenge.deleteMany({ where: { expiresAt: { lt: this.#afterNow(0) } } });
    const crowded = await this.#prisma.agentChallenge.findMany({
      where: { endpointId },
      orderBy: { expiresAt: "desc" },
      skip: MAX_OPEN_CHALLENGES - 1,
      take: MAX_OPEN_CHALLENGES,
      select: { nonceHash: true },
    });
    if (crowded.length > 0)
      await this.#prisma.agentChallenge.deleteMany({
        where: { nonceHash: { in: crowded.map((row) => row.nonceHash) } },
      });
    const nonce = randomBytes(32).toString("base64url");
    await this.#prisma.agentChallenge.create({
      data: {
        nonceHash: fromBuffer(sha256(nonce)),
        endpointId,
        expiresAt: this.#afterNow(CHALLENGE_LIFE_MS),
      },
    });
    return { nonce, expiresInMs: CHALLENGE_LIFE_MS };
  }

  /**
   * A session token for a signed nonce (2); `host` is what the request was addressed to. One for requests opens no link.
   * @throws FarloomError CHALLENGE_INVALID, SIGNATURE_INVALID
   */
  async session(
    endpointId: string,
    proof: { readonly nonce: string; readonly signature: Buffer; readonly host: string },
    use: "link" | "requests",
  ): Promise<{ token: string; expiresInMs: number }> {
    const { nonce, signature, host } = proof;
    await this.#useNonce(endpointId, nonce);
    const endpoint = await this.#prisma.endpoint.findFirst({
      where: { id: endpointId, deletedAt: null },
      select: { publicKey: true, epoch: true },
    });
    const signed = Buffer.from(`farloom-agent-v1\n${host.toLowerCase()}\n${endpointId}\n${nonce}`);
    const good =
      endpoint?.publicKey != null &&
      verify(null, signed, toKeyObject(toBuffer(endpoint.publicKey)), signature);
    if (!good) throw new FarloomError("SIGNATURE_INVALID");
    return this.#identity.tokens.sign("agent", endpointId, {
      key: keyPrint(toBuffer(endpoint.publicKey!)),
      epoch: use === "link" ? endpoint.epoch : null,
    });
  }

  /**
   * The endpoint's key is another from here on (3): what the old one opened ends within 5 s, and it opens nothing more.
   * @throws FarloomError CHALLENGE_INVALID, SIGNATURE_INVALID, REQUEST_INVALID (not a key)
   */
  async rekey(
    endpointId: string,
    proof: {
      readonly nonce: string;
      readonly publicKey: Buffer;
      readonly signature: Buffer;
      readonly newSignature: Buffer;
      readonly host: string;
    },
  ): Promise<{ name: string; owner: string }> {
    const { nonce, publicKey, signature, newSignature, host } = proof;
    const newKey = toKeyObject(publicKey);
    await this.#useNonce(endpointId, nonce);
    const endpoint = await this.#prisma.endpoint.findFirst({
      where: { id: endpointId, deletedAt: null, owner: { disabledAt: null } },
      select: { publicKey: true, name: true, owner: { select: { name: true } } },
    });
    const signed = rekeyText(host, endpointId, nonce, publicKey);
    const good =
      endpoint?.publicKey != null &&
      verify(null, signed, toKeyObject(toBuffer(endpoint.publicKey)), signature) &&
      verify(null, signed, newKey, newSignature);
    if (!good) throw new FarloomError("SIGNATURE_INVALID");
    const { count } = await this.#prisma.endpoint.updateMany({
      where: { id: endpointId, deletedAt: null, publicKey: endpoint.publicKey },
      data: { publicKey: fromBuffer(publicKey), enrolHash: null, enrolExpiresAt: null },
    });
    if (count === 0) throw new FarloomError("SIGNATURE_INVALID");
    this.#identity.changed();
    return { name: endpoint.name, owner: endpoint.owner.name };
  }

  /** Nobody speaks for the endpoint from here on, until somebody enrols with a new code. Its tasks wait. */
  async revoke({ ownerId }: Principal, endpoint: EndpointRecord): Promise<void> {
    await this.#tenants.query(ownerId, {
      text: `UPDATE endpoint SET public_key = NULL, enrol_hash = NULL, enrol_expires_at = NULL
             WHERE id = $2 AND owner_id = $1 AND deleted_at IS NULL`,
      values: [ownerId, endpoint.id],
    });
    this.#identity.changed();
  }

  /** Deleting is using: of two that bring the same nonce, one deletes it. @throws FarloomError CHALLENGE_INVALID */
  async #useNonce(endpointId: string, nonce: string): Promise<void> {
    const { count } = await this.#prisma.agentChallenge.deleteMany({
      where: { nonceHash: fromBuffer(sha256(nonce)), endpointId, expiresAt: { gt: this.#afterNow(0) } },
    });
    if (count === 0) throw new FarloomError("CHALLENGE_INVALID");
  }
}

/** What both keys sign when the one follows the other. */
function rekeyText(host: string, endpointId: string, nonce: string, publicKey: Buffer): Buffer {
  return Buffer.from(
    `farloom-rekey-v1\n${host.toLowerCase()}\n${endpointId}\n${nonce}\n${publicKey.toString("base64url")}`,
  );
}

function toKeyObject(raw: Buffer): KeyObject {
  try {
    if (raw.length === 32) {
      return createPublicKey({ key: Buffer.concat([ED25519_SPKI_PREFIX, raw]), format: "der", type: "spki" });
    }
  } catch {
    // Told below.
  }
  throw new FarloomError("REQUEST_INVALID", {
    detail: "publicKey is not a raw Ed25519 key: 32 bytes in base64",
  });
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
