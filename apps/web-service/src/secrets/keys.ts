/**
 * The keys that seal people's secrets: AES-256-GCM, from a file that the database never sees. The file has one key on a
 * line, 32 bytes in base64: the first seals, and all of them open, so that a new key is put in front and the old one stays
 * until nothing is sealed under it (store.ts seals anew at the start). Made at the first start, mode 0600.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError } from "../config.js";
import { makeKeyFile } from "../support/key-file.js";

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export class SecretKeys {
  readonly #keys: ReadonlyMap<string, Buffer>;
  /** Names the key that seals: the first digits of its SHA-256. */
  readonly sealingId: string;

  private constructor(keys: readonly Buffer[]) {
    this.#keys = new Map(keys.map((key) => [idOf(key), key]));
    this.sealingId = idOf(keys[0]!);
  }

  /** Reads the file, or makes one where `file` is not given and the state folder has none. @throws ConfigError */
  static async load(stateDir: string, file: string | undefined): Promise<SecretKeys> {
    const path = file ?? join(stateDir, "secrets-keys");
    const read = () => readFile(path, "utf8");
    const text = await read().catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT" || file !== undefined)
        throw new ConfigError(`the keys of secrets, ${path}, cannot be read: ${error.message}`);
      await makeKeyFile(path, `${randomBytes(KEY_BYTES).toString("base64")}\n`);
      return read();
    });
    const lines = text.split("\n").map((line) => line.trim());
    const keys = lines.filter((line) => line !== "" && !line.startsWith("#")).map(parse);
    if (keys.length === 0 || keys.includes(undefined))
      throw new ConfigError(
        `the keys of secrets, ${path}, are not lines of 32 bytes in base64 (openssl rand -base64 32)`,
      );
    return new SecretKeys(keys as Buffer[]);
  }

  /** @param about what it is, which must be the same when it is opened */
  seal(value: Buffer, about: string): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", this.#keys.get(this.sealingId)!, nonce);
    cipher.setAAD(Buffer.from(about));
    return Buffer.concat([nonce, cipher.update(value), cipher.final(), cipher.getAuthTag()]);
  }

  /** Undefined where there is no such key, or where it was not sealed by it for this. */
  open(keyId: string, sealed: Buffer, about: string): Buffer | undefined {
    const key = this.#keys.get(keyId);
    if (key === undefined || sealed.length < NONCE_BYTES + TAG_BYTES) return undefined;
    const nonce = sealed.subarray(0, NONCE_BYTES);
    const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAAD(Buffer.from(about)).setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
    const body = sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES);
    try {
      return Buffer.concat([decipher.update(body), decipher.final()]);
    } catch {
      return undefined;
    }
  }
}

function idOf(key: Buffer): string {
  return createHash("sha256").update("farloom secrets key ").update(key).digest("hex").slice(0, 16);
}

function parse(line: string): Buffer | undefined {
  const key = Buffer.from(line, "base64");
  return key.length === KEY_BYTES ? key : undefined;
}
