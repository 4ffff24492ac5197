/**
 * Waiting for tasks over HTTP: long polls that end with the outcome, with the time, with the connection, or with the
 * credential that they came with.
 */
import { type IdKey, uuidToKey } from "@farloom/protocol";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Holding } from "../http/holding.js";
import { principalOf } from "../http/policy.js";
import type { TaskDeliver } from "./ports.js";
import type { TaskReader, TaskRow } from "./reader.js";

/** Proxies between us and the caller rarely allow more. */
export const MAX_WAIT_S = 300;
/** Requests that wait at once; one more is answered at once with how things stand, and may ask again. */
const MAX_WAITING = 20_000;
/** Tasks that they wait for, together. */
const MAX_WAITING_KEYS = 1_000_000;

export class Waiting {
  readonly #deliver: TaskDeliver;
  readonly #reader: TaskReader;
  readonly #holding: Holding;
  #waiting = 0;
  #keys = 0;

  constructor(deliver: TaskDeliver, reader: TaskReader, holding: Holding) {
    this.#deliver = deliver;
    this.#reader = reader;
    this.#holding = holding;
  }

  /**
   * The caller's tasks once all have ended or `waitS` has passed; `reply` tells when nobody listens any more.
   * @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED, NESTED_ENDED where the credential ended meanwhile
   */
  async read(
    request: FastifyRequest,
    keys: readonly IdKey[],
    how: { readonly waitS: number; readonly whole: boolean; readonly reply: FastifyReply },
  ): Promise<TaskRow[]> {
    const { waitS, whole, reply } = how;
    const { ownerId, nested } = principalOf(request);
    if (
      waitS === 0 ||
      keys.length === 0 ||
      this.#waiting >= MAX_WAITING ||
      this.#keys + keys.length > MAX_WAITING_KEYS
    )
      return this.#reader.read(ownerId, keys, whole);
    const stop = new AbortController();
    const onClose = (): void => stop.abort();
    reply.raw.once("close", onClose);
    this.#waiting++;
    this.#keys += keys.length;
    try {
      const rows = await this.#reader.read(ownerId, keys, whole);
      const open = rows.filter((row) => row.state === null);
      if (open.length === 0) return rows;
      // Only the owner's own tasks are waited for. What ends between the reading and the waiting is seen by the latter.
      const openIds = new Set(open.map((row) => row.id));
      const held = await this.#holding.begin(request);
      try {
        const signal = AbortSignal.any([stop.signal, held.revoked]);
        const timeoutMs = Math.min(waitS * 1000, held.leftMs);
        // The token of a running task ends with that task.
        const until = [keysOf(open), ...(nested ? [[uuidToKey(nested.taskId)!]] : [])];
        await Promise.race(until.map((all) => this.#deliver.waitFor(all, timeoutMs, signal)));
        await held.require();
      } finally {
        held.end();
      }
      const again = await this.#reader.read(ownerId, keysOf(open), whole);
      return [...rows.filter((row) => !openIds.has(row.id)), ...again];
    } finally {
      stop.abort();
      this.#waiting--;
      this.#keys -= keys.length;
      reply.raw.off("close", onClose);
    }
  }
}

function keysOf(rows: readonly TaskRow[]): IdKey[] {
  return rows.map((row) => uuidToKey(row.id)!);
}
