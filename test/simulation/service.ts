/**
 * One replica of the simulated service: the real queue and task entries, wired as dispatch/, gateway/ and deliver/
 * wire them. Everything it holds dies with it.
 */
import { type IdKey, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import { EndpointQueue } from "../../apps/web-service/src/dispatch/endpoint-queue.js";
import type { TaskEntry } from "../../apps/web-service/src/dispatch/task-entry.js";
import type { Bugs } from "./bugs.js";
import { Collect } from "./collect.js";
import { AgentDoor, ClientDoor } from "./door.js";
import { ENDPOINT, entryOf, Intake } from "./intake.js";
import { Statements } from "./statements.js";
import type { Row, Told } from "./store.js";

/** A hint to the other replicas; it may be lost. */
export type Hint =
  | { readonly kind: "tasks"; readonly firstSeq: number }
  | { readonly kind: "runnable"; readonly keys: readonly IdKey[] }
  | { readonly kind: "finished"; readonly keys: readonly IdKey[] };

export interface ServiceDeps {
  readonly bugs: Bugs;
  readonly hint: (from: Service, hint: Hint) => void;
}

export class Service {
  readonly statements = new Statements();
  readonly clients = new Set<ClientDoor>();
  readonly bugs: Bugs;
  readonly intake: Intake;
  readonly collect: Collect;
  owned: { readonly queue: EndpointQueue; readonly door: AgentDoor } | undefined;
  readonly #deps: ServiceDeps;
  /** Queues whose pages are being read; true: something committed meanwhile, so that an empty page is not the end. */
  readonly #filling = new Map<EndpointQueue, boolean>();

  constructor(deps: ServiceDeps) {
    this.#deps = deps;
    this.bugs = deps.bugs;
    this.intake = new Intake(this);
    this.collect = new Collect(this);
  }

  // ─── an agent comes and goes ─────────────────────────────────────────────────────────────────────────────

  claim(door: AgentDoor, held: readonly IdKey[]): void {
    const fail = (): void => door.replaced();
    this.statements.add(
      (store) => store.claim(),
      (epoch) =>
        this.statements.add(
          (store) => ({ open: store.openOf(held), known: store.knownOf(held) }),
          ({ open, known }) => this.#attach(door, epoch, { held, open, known }),
          fail,
        ),
      fail,
    );
  }

  #attach(
    door: AgentDoor,
    epoch: number,
    { held, open, known }: { held: readonly IdKey[]; open: readonly Row[]; known: ReadonlySet<IdKey> },
  ): void {
    const queue = new EndpointQueue(ENDPOINT, { epoch, floorSeq: 0 });
    const drop = new Set(held);
    for (const row of open) {
      const entry = entryOf(row);
      queue.addLeased(entry);
      if (!entry.cancelRequested) drop.delete(row.key);
    }
    for (const key of drop) if (!known.has(key)) drop.delete(key);
    const before = this.owned;
    if ((before && before.queue.epoch > epoch) || door.wire.isCut) {
      door.replaced();
      return;
    }
    this.owned = { queue, door };
    before?.queue.close();
    before?.door.replaced();
    door.queue = queue;
    door.open = true;
    door.wire.sendDown({
      t: "welcome",
      version: 1,
      caps: [],
      session: "",
      heartbeatMs: 1,
      deadAfterMs: 1,
      maxFrameBytes: 1,
      software: "sim",
    });
    if (drop.size > 0) door.sendCancel([...drop]);
    this.#fill(queue);
  }

  detach(door: AgentDoor): void {
    if (this.owned?.door !== door) return;
    this.owned.queue.close();
    this.owned = undefined;
  }

  // ─── the queue ───────────────────────────────────────────────────────────────────────────────────────────

  /** Sends what the agent's credit allows. */
  pump(): void {
    if (!this.owned) return;
    const { queue, door } = this.owned;
    while (door.room > 0 && queue.length > 0) {
      const entries = queue.take(door.room, 1e9);
      if (entries.length === 0) break;
      door.sendTasks(entries);
    }
    door.sendMark();
  }

  committed(entries: readonly TaskEntry[], firstSeq: number): void {
    const queue = this.owned?.queue;
    if (!queue) {
      this.#deps.hint(this, { kind: "tasks", firstSeq });
      return;
    }
    if (firstSeq <= queue.cursor) for (const entry of entries) queue.add(entry);
    else if (!entries.every((entry) => queue.offer(entry))) this.#fill(queue);
  }

  requeue(queue: EndpointQueue, entries: readonly TaskEntry[]): void {
    if (this.owned?.queue !== queue) return;
    for (const entry of entries) if (!entry.ended && entry.state !== "QUEUED") queue.requeue(entry);
  }

  returned(door: AgentDoor, keys: readonly IdKey[]): void {
    const queue = door.queue!;
    const entries: TaskEntry[] = [];
    for (const key of keys) {
      const entry = queue.held.get(key);
      if (entry && entry.state !== "QUEUED") entries.push(entry);
    }
    this.requeue(queue, entries);
    const cancelled = entries.filter((entry) => entry.cancelRequested).map((entry) => entry.key);
    if (cancelled.length > 0) this.cancel(cancelled);
  }

  reread(keys: readonly IdKey[]): void {
    if (!this.owned) this.#deps.hint(this, { kind: "runnable", keys });
    else this.#load(this.owned.queue, keys);
  }

  #load(queue: EndpointQueue, keys: readonly IdKey[]): void {
    queue.beginPage();
    this.statements.add(
      (store) => store.openOf(keys),
      (rows) => {
        this.#addOpen(queue, queue.backlog ? rows.filter((row) => row.seq <= queue.cursor) : rows);
        queue.endPage();
        this.#fill(queue);
      },
    );
  }

  #fill(queue: EndpointQueue): void {
    if (this.#filling.has(queue)) {
      this.#filling.set(queue, true);
      return;
    }
    if (this.owned?.queue !== queue || !queue.backlog) return;
    this.#filling.set(queue, false);
    queue.beginPage();
    this.statements.add(
      (store) => store.page(queue.cursor, Number.MAX_SAFE_INTEGER),
      (rows) => {
        this.#addOpen(queue, rows);
        queue.cursor = Math.max(queue.cursor, rows.at(-1)?.seq ?? 0);
        const isLast = !this.#filling.get(queue);
        this.#filling.delete(queue);
        queue.endPage();
        if (isLast) queue.backlog = false;
        else this.#fill(queue);
      },
    );
  }

  #addOpen(queue: EndpointQueue, rows: readonly Row[]): void {
    for (const row of rows) if (!queue.held.has(row.key)) queue.add(entryOf(row));
  }

  // ─── cancel ──────────────────────────────────────────────────────────────────────────────────────────────

  cancel(keys: readonly IdKey[]): void {
    const leased: IdKey[] = [];
    const now: IdKey[] = [];
    for (const key of keys) {
      const entry = this.owned?.queue.held.get(key);
      if (entry) entry.cancelRequested = true;
      if (entry && entry.state !== "QUEUED") leased.push(key);
      else now.push(key);
    }
    const door = this.owned?.door;
    if (leased.length > 0)
      this.statements.add(
        (store) => store.writeCancelRequests(leased),
        () => door?.sendCancel(leased),
      );
    if (now.length > 0)
      this.statements.add(
        (store) => store.endOpen(now, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user),
        (ended) => {
          this.#finishedElsewhere(ended.map((item) => item.key));
          this.tell(ended);
          this.hintFinished(ended.map((item) => item.key));
        },
      );
  }

  /** A cancel ended these, here or elsewhere. */
  #finishedElsewhere(keys: readonly IdKey[]): void {
    if (!this.owned) return;
    const { queue, door } = this.owned;
    const leased: IdKey[] = [];
    for (const key of keys) {
      const entry = queue.held.get(key);
      if (!entry) continue;
      if (entry.state !== "QUEUED") leased.push(key);
      queue.forget(entry);
    }
    if (leased.length > 0) door.sendCancel(leased);
  }

  // ─── those who wait ──────────────────────────────────────────────────────────────────────────────────────

  watch(door: ClientDoor, keys: readonly IdKey[]): void {
    this.clients.add(door);
    this.statements.add(
      (store) => store.outcomesOf(keys),
      (items) => door.tell(items),
    );
  }

  tell(items: readonly Told[]): void {
    for (const door of this.clients) door.tell(items);
  }

  hintFinished(keys: readonly IdKey[]): void {
    if (keys.length > 0) this.#deps.hint(this, { kind: "finished", keys });
  }

  hinted(hint: Hint): void {
    const queue = this.owned?.queue;
    if (hint.kind === "finished") {
      this.#finishedElsewhere(hint.keys);
      this.statements.add(
        (store) => store.outcomesOf(hint.keys),
        (items) => this.tell(items),
      );
    } else if (hint.kind === "runnable" && queue) this.#load(queue, hint.keys);
    else if (hint.kind === "tasks" && queue) {
      if (hint.firstSeq <= queue.cursor) this.#rescan(queue, hint.firstSeq - 1);
      queue.backlog = true;
      this.#fill(queue);
    }
  }

  /** The truth, whatever hints were lost. */
  sweep(known: Iterable<IdKey>): void {
    const queue = this.owned?.queue;
    if (queue) {
      this.#rescan(queue, 0);
      queue.backlog = true;
      this.#fill(queue);
    }
    const keys = [...known];
    this.statements.add(
      (store) => store.outcomesOf(keys),
      (items) => this.tell(items),
    );
  }

  #rescan(queue: EndpointQueue, after: number): void {
    queue.beginPage();
    this.statements.add(
      (store) => store.page(after, queue.cursor),
      (rows) => {
        this.#addOpen(queue, rows);
        queue.endPage();
      },
    );
  }
}

export { AgentDoor, ClientDoor };
