/**
 * Which signed calls were taken, so that none is begun more often than its caller signed: the file `invocations` of the
 * state folder, one record for each call and attempt, until the call's signature expires.
 *
 *   L1  An attempt is taken once. What was given back unbegun may come again.
 *   L2  A call is taken under no more attempts than were signed.
 *
 * The file is written as the journal is: it survives the end of the process, and not the loss of the machine's memory.
 * Bound: MAX_CALLS at once; beyond, nothing new is taken until some have expired.
 */
import { closeSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { type IdKey, keyAt, writeKey } from "@farloom/protocol";

/** Of 32 bytes each in the file. */
const MAX_CALLS = 200_000;
/** Id (16), attempt (u32), 1 taken or 0 given back (u32), expiry (u64, seconds). */
const RECORD_BYTES = 32;

interface Taken {
  readonly attempts: Set<number>;
  readonly expires: number;
}

export class InvocationLedger {
  readonly #path: string;
  readonly #taken = new Map<IdKey, Taken>();
  #fd: number | undefined;
  #records = 0;

  /** `path`: its file, which is made at the first call. */
  constructor(path: string) {
    this.#path = path;
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    // A torn last record was of a call that was never begun.
    for (let at = 0; at + RECORD_BYTES <= bytes.length; at += RECORD_BYTES) {
      const key = keyAt(bytes, at);
      const attempt = bytes.readUInt32LE(at + 16);
      if (bytes.readUInt32LE(at + 20) === 1) this.#note(key, attempt, Number(bytes.readBigUInt64LE(at + 24)));
      else this.#taken.get(key)?.attempts.delete(attempt);
    }
    this.#rewrite(nowSeconds());
  }

  /** Takes an attempt, or says why not. `isHeld`: it is in our own journal, and may have been taken before. */
  take(
    key: IdKey,
    attempt: number,
    call: { readonly expires: number; readonly attempts: number; readonly isHeld: boolean },
  ): string | undefined {
    const known = this.#taken.get(key);
    if (known?.attempts.has(attempt)) return call.isHeld ? undefined : "it was begun before";
    if ((known?.attempts.size ?? 0) >= call.attempts)
      return `it was begun ${call.attempts} times, as often as was signed`;
    if (known === undefined && this.#taken.size >= MAX_CALLS) {
      this.#rewrite(nowSeconds());
      if (this.#taken.size >= MAX_CALLS) return "too many signed calls are remembered here";
    }
    try {
      this.#write(key, attempt, { isTaken: true, expires: call.expires });
    } catch (error) {
      // Begun without that, it could be begun again.
      return `that it is begun cannot be written here: ${(error as Error).message}`;
    }
    this.#note(key, attempt, call.expires);
    return undefined;
  }

  /** An attempt was given back unbegun. */
  release(key: IdKey, attempt: number): void {
    const known = this.#taken.get(key);
    if (!known?.attempts.delete(attempt)) return;
    try {
      this.#write(key, attempt, { isTaken: false, expires: known.expires });
    } catch {
      // After a restart it counts as begun.
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #note(key: IdKey, attempt: number, expires: number): void {
    const known = this.#taken.get(key);
    if (known) known.attempts.add(attempt);
    else this.#taken.set(key, { attempts: new Set([attempt]), expires });
  }

  #write(key: IdKey, attempt: number, what: { readonly isTaken: boolean; readonly expires: number }): void {
    try {
      if (this.#records > 2 * MAX_CALLS) this.#rewrite(nowSeconds());
      this.#fd ??= openSync(this.#path, "a", 0o600);
      const written = writeSync(this.#fd, record(key, attempt, what));
      if (written < RECORD_BYTES) throw new Error("the disk is full");
    } catch (error) {
      // A part of a record may lie there now: all are written anew before the next one.
      this.#records = Number.POSITIVE_INFINITY;
      throw error;
    }
    this.#records++;
  }

  #rewrite(now: number): void {
    this.close();
    const records: Buffer[] = [];
    for (const [key, { attempts, expires }] of this.#taken) {
      if (expires <= now || attempts.size === 0) this.#taken.delete(key);
      else for (const attempt of attempts) records.push(record(key, attempt, { isTaken: true, expires }));
    }
    writeFileSync(`${this.#path}.new`, Buffer.concat(records), { mode: 0o600, flush: true });
    renameSync(`${this.#path}.new`, this.#path);
    this.#records = records.length;
  }
}

function record(
  key: IdKey,
  attempt: number,
  what: { readonly isTaken: boolean; readonly expires: number },
): Buffer {
  const bytes = Buffer.alloc(RECORD_BYTES);
  writeKey(bytes, key, 0);
  bytes.writeUInt32LE(attempt, 16);
  bytes.writeUInt32LE(what.isTaken ? 1 : 0, 20);
  bytes.writeBigUInt64LE(BigInt(what.expires), 24);
  return bytes;
}

export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}
