/** Intake of a simulated service: as apps/web-service/src/intake/intake.ts, with the store's statements simulated. */
import type { IdKey } from "@farloom/protocol";
import type { EndpointQueue } from "../../apps/web-service/src/dispatch/endpoint-queue.js";
import { TaskEntry } from "../../apps/web-service/src/dispatch/task-entry.js";
import type { FunctionRecord } from "../../apps/web-service/src/functions/registry.js";
import { DIGEST } from "./door.js";
import type { TaskSpec } from "./oracle.js";
import type { Service } from "./service.js";
import type { Row, Told } from "./store.js";

/** Everything here belongs to one owner and one endpoint. */
export const ENDPOINT: IdKey = "endpoint".padEnd(16);
export const FUNCTION = {
  key: 1,
  definition: { digest: DIGEST, mode: "at_most_once", retries: 0, backoffMs: 0 },
} as unknown as FunctionRecord;

export class Intake {
  readonly #service: Service;

  constructor(service: Service) {
    this.#service = service;
  }

  take(specs: readonly TaskSpec[], again: boolean, durable: () => void): void {
    const { service, entries } = { service: this.#service, entries: specs.map(toEntry) };
    const travelledIn = again ? undefined : this.#sendAhead(entries);
    const rows = entries.map((e) => ({ key: e.key, args: e.source, options: e.options! }));
    const keys = rows.map((row) => row.key);
    service.statements.add(
      (store) => ({
        inserted: store.insertTasks(rows),
        rows: new Map(store.openOf(keys).map((row) => [row.key, row])),
        outcomes: store.outcomesOf(keys),
      }),
      ({ inserted, rows, outcomes }) => {
        if (inserted.added < entries.length) this.#reconcile(entries, rows, outcomes);
        this.#settle(entries, inserted, {
          travelledIn,
          repeated: inserted.added < entries.length,
        });
        durable();
      },
    );
  }

  #sendAhead(entries: readonly TaskEntry[]): EndpointQueue | undefined {
    const queue = this.#service.owned?.queue;
    for (const entry of entries) if (!queue?.offer(entry)) return undefined;
    return queue;
  }

  #reconcile(entries: readonly TaskEntry[], rows: ReadonlyMap<IdKey, Row>, outcomes: readonly Told[]): void {
    const ended = new Set(outcomes.map((outcome) => outcome.key));
    for (const entry of entries) {
      const row = rows.get(entry.key);
      if (ended.has(entry.key) || (row && row.attempt !== entry.attempt)) this.#drop(entry);
    }
    this.#service.tell(outcomes);
  }

  #settle(
    entries: readonly TaskEntry[],
    { firstSeq, lastSeq }: { readonly firstSeq: number; readonly lastSeq: number },
    how: { readonly travelledIn: EndpointQueue | undefined; readonly repeated: boolean },
  ): void {
    const service = this.#service;
    const queue = service.owned?.queue;
    const isSame = queue !== undefined && queue === how.travelledIn;
    const travelled = isSame || (how.travelledIn && service.bugs.has("a reconnect forgets what travelled"));
    const behind: TaskEntry[] = [];
    const cancelled: IdKey[] = [];
    for (const entry of entries) {
      if (entry.ended && !entry.early) continue;
      entry.committed = true;
      entry.seq = firstSeq;
      if (entry.cancelRequested) cancelled.push(entry.key);
      if (entry.early) service.collect.released(entry);
      else if (!travelled && !queue?.held.has(entry.key)) behind.push(entry);
    }
    if (behind.length > 0) {
      if (how.repeated) service.reread(behind.map((entry) => entry.key));
      else service.committed(behind, firstSeq);
    }
    if (queue && !queue.backlog && lastSeq > queue.cursor) queue.cursor = lastSeq;
    if (cancelled.length > 0) service.cancel(cancelled);
  }

  #drop(entry: TaskEntry): void {
    this.#service.owned?.queue.forget(entry);
    entry.ended = true;
    this.#service.collect.released(entry);
  }
}

function toEntry(spec: TaskSpec): TaskEntry {
  const source = Buffer.from(spec.nonce, "latin1");
  return new TaskEntry({
    key: spec.key,
    ownerKey: ENDPOINT,
    endpointKey: ENDPOINT,
    groupKey: ENDPOINT,
    fn: FUNCTION,
    source,
    start: 0,
    end: source.length,
    codec: 1,
    seals: undefined,
    sealAt: 0,
    attempt: 1,
    options: {
      mode: spec.atMostOnce ? "at_most_once" : "at_least_once",
      retries: spec.retries,
      ...(spec.queueTimeout ? { queueTimeoutMs: 1000 } : {}),
    },
  });
}

/** A row as the filler makes an entry of it. */
export function entryOf(row: Row): TaskEntry {
  const entry = new TaskEntry({
    key: row.key,
    ownerKey: ENDPOINT,
    endpointKey: ENDPOINT,
    groupKey: ENDPOINT,
    fn: FUNCTION,
    source: row.args,
    start: 0,
    end: row.args.length,
    codec: 1,
    seals: undefined,
    sealAt: 0,
    attempt: row.attempt,
    options: row.options,
  });
  entry.seq = row.seq;
  entry.committed = true;
  entry.losses = row.losses;
  entry.agentLosses = row.agentLosses;
  entry.cancelRequested = row.cancelRequested;
  return entry;
}
