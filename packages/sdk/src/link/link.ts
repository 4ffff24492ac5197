/**
 * The client's end of the client–service hop: custody, credit, marks and resume over whatever connections it takes.
 *
 *   idle ─► connecting ─► open ─► (cut) waiting ─► connecting …        one loop, woken by the first task
 *
 * Invariants
 *   L1  Nothing is sent beyond credit (P9), and nothing more while the socket holds PAUSE_BUFFERED_BYTES.
 *   L2  A task stays in custody until a durable mark covers the place where it was last sent (P11).
 *   L3  In a new session: `watch` for what is durable and unresolved (P16), then what was not durable, same ids.
 *   L4  A task sent in more than one session is watched by id once it is durable: its end may lie in the past.
 *   L5  A task settles once; a result that comes again only counts in the mark.
 *   L6  What gathers in one turn of the event loop goes in one frame for each endpoint and group.
 */
import {
  buildTasks,
  Credit,
  columnToKeys,
  FarloomError,
  type IdKey,
  keyAt,
  keysToColumn,
  limits,
  misplaced,
  Outbox,
  type ResultsFrame,
  type TasksFrame,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import { mayRetry, remoteError } from "../errors.js";
import type { Credential } from "../login.js";
import type { Task } from "../task.js";
import { Backoff, backoffMs } from "./backoff.js";
import { Connection, type ConnectionOptions, type Ended, type LinkFrame } from "./connection.js";
import type { KeepAlive } from "./keep-alive.js";
import { type Cut, type Lane, Lanes } from "./lanes.js";

export interface LinkOptions extends ConnectionOptions {
  /** Instead of the API key. */
  readonly login?: Credential | undefined;
  readonly connectForMs: number;
  readonly reconnectForMs: number;
}

/** Ids in one watch frame: 1 MiB. */
const WATCH_IDS = 65_536;
/** Connections in a row that got nowhere and ended with a frame that could not be read: the next such one is no accident. */
const MAX_ACCIDENTS = 5;

export class ClientLink {
  readonly #options: LinkOptions;
  readonly #keepAlive: KeepAlive;
  readonly #lanes = new Lanes();
  /** Everything that is with this link and has not ended. */
  readonly #open = new Map<IdKey, Task>();
  readonly #outbox = new Outbox<Task>();
  readonly #backoff = new Backoff();
  #connection: Connection | undefined;
  #welcomed = false;
  #everWelcomed = false;
  #failingSinceMs: number | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  /** A token of the login is being fetched. */
  #fetching = false;
  #closed = false;

  // Of the session:
  #credit = new Credit();
  #watched = new Set<string>();
  #released = 0;
  #received = 0;
  /** Connections in a row that ended with a frame that could not be read. */
  #accidents = 0;
  #marked = 0;
  #cancels: IdKey[] = [];
  #rewatch: Task[] = [];
  #flushScheduled = false;
  /** Called after each flush: whoever feeds the link by its room looks again. */
  readonly #roomListeners = new Set<() => void>();

  constructor(options: LinkOptions, keepAlive: KeepAlive) {
    this.#options = options;
    this.#keepAlive = keepAlive;
  }

  /** Tasks that wait to be sent. */
  get waitingTasks(): number {
    return this.#lanes.waitingTasks;
  }
  get waitingBytes(): number {
    return this.#lanes.waitingBytes;
  }
  /** Whether a session is open. */
  get connected(): boolean {
    return this.#welcomed;
  }

  checkRoom(): void {
    this.#lanes.checkRoom();
  }

  laneOf(endpoint: Buffer, group: Buffer): Lane {
    return this.#lanes.laneOf(endpoint, group);
  }

  onRoom(listener: () => void): () => void {
    this.#roomListeners.add(listener);
    return () => this.#roomListeners.delete(listener);
  }

  /** Takes a task into custody; its function is known. The caller holds the keep-alive, which passes to the link. */
  enqueue(task: Task, lane: Lane): void {
    if (this.#closed) {
      this.#fail(task, new FarloomError("CLIENT_CLOSED"));
      return;
    }
    task.phase = "waiting";
    task.lane = lane;
    this.#open.set(task.key, task);
    this.#lanes.push(task, lane);
    if (this.#welcomed) this.#scheduleFlush();
    else this.#dial();
  }

  /** Ends it here where nothing was sent; asks the service otherwise. */
  cancel(task: Task): void {
    if (task.isSettled) return;
    task.cancelRequested = true;
    if (task.phase === "delayed" || (task.phase === "waiting" && task.sends === 0)) {
      this.#open.delete(task.key);
      this.#unhold(task);
      task.settleCancelled();
    } else if (this.#welcomed) {
      this.#cancels.push(task.key);
      this.#scheduleFlush();
    }
  }

  /** Whether everything submitted is durable or settled. */
  get drained(): boolean {
    return this.#lanes.waitingTasks === 0 && this.#outbox.size === 0;
  }

  /** Ends the link; what has not ended fails with CLIENT_CLOSED. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    if (this.#welcomed) this.#flush();
    this.#connection?.close();
    this.#failAll(new FarloomError("CLIENT_CLOSED"));
  }

  // ── connections ────────────────────────────────────────────────────────────────────────────────────────────────

  #dial(): void {
    if (this.#connection !== undefined || this.#retryTimer !== undefined || this.#closed) return;
    const { login, apiKey } = this.#options;
    const token = login === undefined ? apiKey : login.current;
    if (token !== undefined) this.#connect(token);
    else if (!this.#fetching) void this.#fetchToken(login!);
  }

  async #fetchToken(login: Credential): Promise<void> {
    this.#fetching = true;
    const fetched = await login.get().then(
      (token) => ({ token }),
      (error: FarloomError) => ({ error }),
    );
    this.#fetching = false;
    if (this.#closed) return;
    if ("token" in fetched) this.#connect(fetched.token);
    else if (!mayRetry(fetched.error)) this.#failAll(fetched.error);
    else this.#retry(fetched.error, fetched.error.retryAfterMs);
  }

  #connect(apiKey: string): void {
    const connection = new Connection(
      { ...this.#options, apiKey },
      {
        welcome: () => this.#opened(),
        frame: (frame) => this.#frame(frame),
        writable: () => this.#scheduleFlush(),
        ended: (how) => this.#ended(how),
      },
    );
    this.#connection = connection;
    this.#keepAlive.attach(connection);
  }

  #opened(): void {
    this.#welcomed = true;
    this.#everWelcomed = true;
    this.#failingSinceMs = undefined;
    this.#resume();
    this.#scheduleFlush();
  }

  /** L3: names what it waits for, and queues again what was not durable. */
  #resume(): void {
    const byGroup = new Map<string, { group: Buffer; keys: IdKey[] }>();
    for (const task of this.#open.values()) {
      if (task.phase !== "durable") continue;
      addTo(byGroup, task);
      if (task.cancelRequested) this.#cancels.push(task.key);
    }
    this.#watchAll(byGroup);
  }

  #watchAll(byGroup: ReadonlyMap<string, { group: Buffer; keys: IdKey[] }>): void {
    for (const [groupKey, { group, keys }] of byGroup) {
      this.#watched.add(groupKey);
      for (let from = 0; from < keys.length; from += WATCH_IDS) {
        this.#connection!.send({ t: "watch", group, ids: keysToColumn(keys.slice(from, from + WATCH_IDS)) });
      }
    }
  }

  #ended(how: Ended): void {
    const connection = this.#connection!;
    if (how.error.code === "TOKEN_EXPIRED") this.#options.login?.expired();
    const gotSomewhere = this.#released > 0 || this.#received > 0;
    this.#backoff.ended(connection.uptimeMs, gotSomewhere);
    if (gotSomewhere) this.#accidents = 0;
    this.#keepAlive.detach(connection);
    this.#connection = undefined;
    this.#welcomed = false;
    this.#restartSession();
    if (this.#closed) return;
    if (this.#isFatal(how)) {
      this.#failAll(how.error);
      return;
    }
    this.#retry(how.error, how.kind === "retryable" ? how.retryAfterMs : undefined);
  }

  /** Dials again after a while, or gives up on everything where it has been tried for too long. */
  #retry(error: FarloomError, retryAfterMs: number | undefined): void {
    if (this.#open.size === 0) {
      // Nobody waits for anything: the next submission dials.
      this.#failingSinceMs = undefined;
      return;
    }
    const nowMs = performance.now();
    this.#failingSinceMs ??= nowMs;
    const limitMs = this.#everWelcomed ? this.#options.reconnectForMs : this.#options.connectForMs;
    if (nowMs - this.#failingSinceMs > limitMs) {
      this.#failingSinceMs = undefined;
      this.#failAll(error);
      return;
    }
    const timer = setTimeout(
      () => {
        this.#keepAlive.detach(timer);
        this.#retryTimer = undefined;
        if (this.#open.size > 0) this.#dial();
      },
      Math.max(retryAfterMs ?? 0, this.#backoff.nextMs()),
    );
    this.#retryTimer = timer;
    this.#keepAlive.attach(timer);
  }

  /** One frame that cannot be read is an accident of its connection; one after the other means that nobody can. */
  #isFatal(how: Ended): boolean {
    if (how.error.code !== "FRAME_INVALID") {
      this.#accidents = 0;
      return how.kind === "fatal";
    }
    return ++this.#accidents > MAX_ACCIDENTS;
  }

  /** What was sent and not durable waits again, in front; positions and credit begin anew (P8). */
  #restartSession(): void {
    const first = this.#released + 1;
    const left = this.#outbox.restart();
    const again: Task[] = [];
    for (let i = 0; i < left.length; i++) {
      const task = left[i]!;
      if (task.phase !== "sent" || task.position !== first + i) continue;
      task.phase = "waiting";
      again.push(task);
    }
    this.#lanes.pushFront(again);
    this.#credit = new Credit();
    this.#watched.clear();
    this.#cancels = [];
    this.#rewatch = [];
    this.#released = this.#received = this.#marked = 0;
  }

  // ── frames in ──────────────────────────────────────────────────────────────────────────────────────────────────

  #frame(frame: LinkFrame): void {
    switch (frame.t) {
      case "credit":
        this.#credit.grant(frame.tasks, frame.bytes);
        this.#scheduleFlush();
        return;
      case "mark":
        this.#mark(frame.accepted, frame.durable);
        return;
      case "results":
        this.#results(frame);
        return;
      case "refused":
        this.#refused(
          frame.from,
          frame.n,
          remoteError(frame.code, frame.message, { retryAfterMs: frame.retryAfterMs }),
        );
        return;
      case "progress":
        if (frame.kind === "started") {
          for (const key of columnToKeys(frame.ids)) {
            const task = this.#open.get(key);
            if (task) task.started = true;
          }
        } else if (frame.kind === "progress") {
          const { done, total } = frame;
          this.#open
            .get(keyAt(frame.ids))
            ?.progressed({ done: done!, ...(total !== undefined && { total }) });
        }
        return;
      case "problem":
        this.#problem(remoteError(frame.code, frame.message));
        return;
      case "drain":
      case "bye":
        // The service closes when it is done; the connection's end says so.
        return;
    }
  }

  /** A watch or a cancel could not be carried out: nothing else will ever be said of it. */
  #problem(error: FarloomError): void {
    if (error.code === "FRAME_UNKNOWN") return;
    const cancelled = [...this.#open.values()].filter((task) => task.cancelRequested);
    // What passes is asked again in a new session. A key that may not cancel fails those who asked for it; one that may
    // not read fails all who wait, and this session with them.
    if (mayRetry(error) || cancelled.length === 0) {
      this.#connection?.giveUp(error);
      return;
    }
    for (const task of cancelled) {
      this.#open.delete(task.key);
      this.#fail(task, error);
    }
  }

  #mark(accepted: number, durable: number): void {
    const released = this.#outbox.mark({ accepted, durable });
    if (!Array.isArray(released)) {
      this.#connection?.abort(released.bad);
      return;
    }
    let freed = 0;
    for (let i = 0; i < released.length; i++) {
      const task = released[i]!;
      if (task.phase !== "sent" || task.position !== this.#released + 1 + i) continue;
      task.phase = "durable";
      freed++;
      task.onDurable?.();
      crashPoint("client.submit.durable");
      task.dropArguments();
      if (task.sends > 1) this.#rewatch.push(task);
      if (task.cancelRequested) this.#cancels.push(task.key);
    }
    this.#released += released.length;
    this.#keepAlive.release(freed);
    if (this.#rewatch.length > 0 || this.#cancels.length > 0) this.#scheduleFlush();
    if (freed > 0) this.#tellRoom();
  }

  #results(frame: ResultsFrame): void {
    crashPoint("client.result.received");
    const wrong = misplaced(frame.first, this.#received);
    if (wrong !== undefined) {
      this.#connection?.abort(wrong);
      return;
    }
    this.#received += frame.n;
    this.#scheduleFlush();
    for (let i = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, i << 4);
      const task = this.#open.get(key);
      if (task === undefined) continue;
      this.#open.delete(key);
      this.#unhold(task);
      task.settleFrom(frame, i);
    }
    crashPoint("client.result.settled");
  }

  #refused(from: number, n: number, error: FarloomError): void {
    const tasks = this.#outbox
      .at(from, n)
      .filter((task, i) => task.phase === "sent" && task.position === from + i);
    for (const task of tasks) task.position = -1;
    if (!mayRetry(error)) {
      for (const task of tasks) {
        this.#open.delete(task.key);
        this.#fail(task, error);
      }
      return;
    }
    // Not taken, so the same id is free to be submitted again.
    for (const task of tasks) task.phase = "delayed";
    const waitMs = Math.max(error.retryAfterMs ?? 0, backoffMs(tasks[0]?.sends ?? 0));
    const timer = setTimeout(() => {
      this.#refusedTimers.delete(timer);
      const again = tasks.filter((task) => task.phase === "delayed");
      for (const task of again) task.phase = "waiting";
      this.#lanes.pushFront(again);
      if (this.#welcomed) this.#scheduleFlush();
      else this.#dial();
    }, waitMs);
    this.#refusedTimers.add(timer);
  }
  readonly #refusedTimers = new Set<NodeJS.Timeout>();

  // ── frames out ─────────────────────────────────────────────────────────────────────────────────────────────────

  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      if (this.#welcomed) this.#flush();
    });
  }

  #flush(): void {
    const connection = this.#connection!;
    if (this.#rewatch.length > 0) {
      const byGroup = new Map<string, { group: Buffer; keys: IdKey[] }>();
      for (const task of this.#rewatch) if (!task.isSettled) addTo(byGroup, task);
      this.#rewatch = [];
      this.#watchAll(byGroup);
    }
    let sent = false;
    while (connection.bufferedBytes < limits.PAUSE_BUFFERED_BYTES) {
      const cut = this.#lanes.next(this.#credit.room, this.#credit.roomBytes);
      if (cut === undefined) break;
      this.#sendCut(connection, cut);
      sent = true;
    }
    if (this.#cancels.length > 0) {
      const ids = this.#cancels.filter((key) => this.#open.has(key));
      this.#cancels = [];
      for (let from = 0; from < ids.length; from += limits.MAX_BATCH_ITEMS) {
        connection.send({ t: "cancel", ids: keysToColumn(ids.slice(from, from + limits.MAX_BATCH_ITEMS)) });
      }
    }
    if (this.#received > this.#marked) {
      this.#marked = this.#received;
      connection.send({ t: "mark", accepted: this.#received, durable: this.#received });
    }
    if (sent) this.#tellRoom();
  }

  #sendCut(connection: Connection, { lane, from, n, sizeBytes, again }: Cut): void {
    if (!this.#watched.has(lane.groupKey)) {
      this.#watched.add(lane.groupKey);
      connection.send({ t: "watch", group: lane.group });
    }
    const frame = buildTasks(lane.queue, from, n, digestOf);
    frame.endpoint = lane.endpoint;
    frame.group = lane.group;
    if (again) frame.again = 1;
    frame.first = this.#outbox.sent + 1;
    for (let i = from; i < from + n; i++) {
      const task = lane.queue[i]!;
      task.phase = "sent";
      task.sends++;
      task.position = this.#outbox.push(task);
    }
    this.#credit.use(n, sizeBytes);
    this.#lanes.compact(lane);
    if (again && planted("resubmit-new-id")) renew(frame);
    crashPoint("client.submit.before-send");
    connection.send(frame);
    crashPoint("client.submit.after-send");
  }

  // ── ends ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #tellRoom(): void {
    for (const listener of this.#roomListeners) listener();
  }

  /** A task holds the process until it is durable or has ended. */
  #unhold(task: Task): void {
    if (task.phase === "waiting") this.#lanes.forget(task.sizeBytes);
    if (task.phase !== "durable") this.#keepAlive.release();
  }

  #fail(task: Task, error: FarloomError): void {
    if (task.isSettled) return;
    this.#unhold(task);
    task.settleWith(error);
  }

  /** Everything ends. Listeners may submit anew meanwhile: the queues are empty before the first one hears. */
  #failAll(error: FarloomError): void {
    const tasks = [...this.#open.values()];
    this.#open.clear();
    for (const timer of this.#refusedTimers) clearTimeout(timer);
    this.#refusedTimers.clear();
    for (const task of tasks) this.#unhold(task);
    this.#outbox.restart();
    this.#lanes.clear();
    for (const task of tasks) if (!task.isSettled) task.settleWith(error);
    this.#tellRoom();
  }
}

/** The planted bug `resubmit-new-id`: other ids for the same tasks, and no seals, which name the old ones. */
function renew(frame: TasksFrame): void {
  frame.ids = Buffer.from(frame.ids);
  for (let at = 0; at < frame.ids.length; at += 16) frame.ids[at + 12] = frame.ids[at + 12]! ^ 1;
  delete frame.seals;
}

function digestOf(task: Task): Buffer {
  return task.digest!;
}

function addTo(byGroup: Map<string, { group: Buffer; keys: IdKey[] }>, task: Task): void {
  const lane = task.lane!;
  const entry = byGroup.get(lane.groupKey);
  if (entry) entry.keys.push(task.key);
  else byGroup.set(lane.groupKey, { group: lane.group, keys: [task.key] });
}
