/**
 * Payload files: arguments and results above 65,536 bytes travel by HTTP under their SHA-256 (PROTOCOL.md section 6).
 * Large ones that the service has already are not sent again; nor is anything that we stored a short while ago.
 */
import { createHash } from "node:crypto";
import { FarloomError, limits } from "@farloom/protocol";
import { mayRetry } from "./errors.js";
import type { Rest } from "./rest.js";

/** Up to this size, sending costs less than asking first whether the service has it: PUT says so by itself. */
const ASK_FIRST_BYTES = 4 * 1024 * 1024;
/** Transfers at once; each holds its bytes in memory. */
const MAX_TRANSFERS = 8;
/** Digests remembered as stored. The service keeps an unused file for 24 hours; we trust it for one. */
const MAX_REMEMBERED = 4096;
const REMEMBER_MS = 60 * 60_000;

export class Payloads {
  readonly #rest: Rest;
  readonly #stored = new Map<string, number>();
  readonly #uploads = new Map<string, Promise<void>>();
  #running = 0;
  readonly #queue: (() => void)[] = [];

  constructor(rest: Rest) {
    this.#rest = rest;
  }

  /** Sees to it that the service has these bytes; returns their digest. */
  async put(bytes: Buffer, signal?: AbortSignal): Promise<Buffer> {
    if (bytes.length > limits.MAX_PAYLOAD_BYTES) {
      throw new FarloomError("PAYLOAD_TOO_LARGE", { limit: limits.MAX_PAYLOAD_BYTES });
    }
    const digest = createHash("sha256").update(bytes).digest();
    const name = digest.toString("hex");
    const knownUntilMs = this.#stored.get(name);
    if (knownUntilMs !== undefined && performance.now() < knownUntilMs) return digest;
    let upload = this.#uploads.get(name);
    if (upload === undefined) {
      upload = this.#limited(() => this.#upload(name, bytes, signal)).finally(() =>
        this.#uploads.delete(name),
      );
      this.#uploads.set(name, upload);
    }
    await upload;
    return digest;
  }

  /** The bytes of a payload file; asked for twice where they have another digest, and then undefined. */
  async get(digest: Buffer, signal?: AbortSignal): Promise<Buffer | undefined> {
    const path = `/v1/payloads/${digest.toString("hex")}`;
    for (let left = 2; left > 0; left--) {
      const { body } = await this.#limited(() => this.#rest.send({ path, signal, timeoutMs: 600_000 }));
      if (createHash("sha256").update(body).digest().equals(digest)) return body;
    }
    return undefined;
  }

  async #upload(name: string, bytes: Buffer, signal: AbortSignal | undefined): Promise<void> {
    const path = `/v1/payloads/${name}`;
    if (bytes.length <= ASK_FIRST_BYTES || !(await this.#has(path, signal))) {
      await this.#rest.send({ method: "PUT", path, body: bytes, signal, timeoutMs: 600_000 });
    }
    if (this.#stored.size >= MAX_REMEMBERED) this.#stored.delete(this.#stored.keys().next().value!);
    this.#stored.set(name, performance.now() + REMEMBER_MS);
  }

  async #has(path: string, signal: AbortSignal | undefined): Promise<boolean> {
    try {
      await this.#rest.send({ method: "HEAD", path, signal });
      return true;
    } catch (error) {
      if (error instanceof FarloomError && error.status === 404) return false;
      if (mayRetry(error) || signal?.aborted) throw error;
      // Any other answer to HEAD is left to PUT, whose answer has a body that says why.
      return false;
    }
  }

  async #limited<T>(transfer: () => Promise<T>): Promise<T> {
    if (this.#running >= MAX_TRANSFERS) await new Promise<void>((resolve) => this.#queue.push(resolve));
    else this.#running++;
    try {
      return await transfer();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#running--;
    }
  }
}
