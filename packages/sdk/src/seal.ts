/**
 * Seals at the client's end (PROTOCOL.md P25): made over the arguments as soon as they are bytes, and checked over
 * every result before it is read. A result that does not bear its seal is fetched once more, over REST.
 */
import { createHash } from "node:crypto";
import {
  encodeReference,
  FarloomError,
  hasSeal,
  type IdKey,
  keyToUuid,
  limits,
  SEAL_BYTES,
  sealHolds,
  writeSeal,
} from "@farloom/protocol";
import type { TasksApi } from "./resources.js";

/** Small enough that one task that waits long retains little. */
const ARENA_SEALS = 1024;

/** What is sealed: a task whose arguments are bytes. */
export interface Sealable {
  readonly key: IdKey;
  readonly source: Buffer;
  readonly start: number;
  readonly end: number;
  seals: Buffer | undefined;
  sealAt: number;
}

/** Makes seals, many of them in one buffer. */
export class Sealer {
  #arena = Buffer.allocUnsafeSlow(SEAL_BYTES * ARENA_SEALS);
  #at = 0;

  seal(task: Sealable): void {
    if (this.#at === this.#arena.length) {
      this.#arena = Buffer.allocUnsafeSlow(SEAL_BYTES * ARENA_SEALS);
      this.#at = 0;
    }
    writeSeal(this.#arena, this.#at, task.key, task.source, task.start, task.end);
    task.seals = this.#arena;
    task.sealAt = this.#at;
    this.#at += SEAL_BYTES;
  }
}

/**
 * The task's result over REST, checked against the seal that comes with it, or else against `seal`. One that fails is
 * asked for once more. @throws RESULT_CORRUPT
 */
export async function sealedResult(
  tasks: TasksApi,
  key: IdKey,
  how: { readonly seal?: Buffer | undefined; readonly signal?: AbortSignal | undefined } = {},
): Promise<{ body: Buffer; contentType: string }> {
  const id = keyToUuid(key);
  for (let left = 2; left > 0; left--) {
    const { body, contentType, seal } = await tasks.result(id, how.signal ? { signal: how.signal } : {});
    if (bears(seal ?? how.seal, key, body)) return { body, contentType };
  }
  throw new FarloomError("RESULT_CORRUPT", { id });
}

/** REST gives a large result's bytes, where the seal is over the reference to them. */
function bears(seal: Buffer | undefined, key: IdKey, body: Buffer): boolean {
  if (!hasSeal(seal)) return true;
  if (body.length <= limits.MAX_INLINE_BYTES && sealHolds(seal, 0, key, body)) return true;
  return sealHolds(seal, 0, key, encodeReference(createHash("sha256").update(body).digest(), body.length));
}
