/**
 * One agent's connection: the service as the upper side of the service–agent hop. It opens the link, sends what
 * dispatch gives it within credit, and hands what comes up to collect.
 *
 *   opening   entered by the upgrade; left by a good hello, or by refusal
 *   claiming  until the claim of the endpoint has committed and its queue is here; the agent says nothing meanwhile
 *   open      tasks go down, results come up
 *   closed    entered once; the endpoint is detached, its leases stay with the agent's journal
 */
import {
  ByteBudget,
  batchLength,
  buildTasks,
  Credit,
  columnToKeys,
  type EndpointReport,
  errorMessage,
  FRAMES_UP,
  type Frame,
  fenceFor,
  type HelloFrame,
  type IdKey,
  Inbox,
  keyAt,
  keysToColumn,
  keyToUuid,
  limits,
  type Mark,
  misplaced,
  Outbox,
  type OutputFrame,
  type OutputPiece,
  type ProgressFrame,
  piecesOf,
  type ResultsFrame,
  readReport,
  type TaskItem,
  u32Of,
  uuidToKey,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Collect } from "../collect/collect.js";
import type { AgentLease, Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import type { TaskEntry } from "../dispatch/task-entry.js";
import type { FunctionSignatures } from "../functions/signatures.js";
import type { LinkedAgent } from "../identity/principal.js";
import { FrameSocket, type Upgraded } from "../link/frame-socket.js";
import { agreeOrRefuse, sendWelcome } from "../link/welcome.js";
import { claimEndpoint } from "../store/ownership.js";

/** Results that the agent keeps before it hears at once that they are committed, and how long it may wait for fewer. */
const MARK_RESULTS = 256;
const MARK_MS = 10;
/** Functions of which a session remembers that it has sent them. */
const MAX_SENT_FUNCTIONS = 50_000;

export interface AgentSessionDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly replicaId: string;
  readonly dispatch: Dispatch;
  readonly collect: Collect;
  readonly signatures: FunctionSignatures;
  readonly onStarted: (tasks: TaskEntry[]) => void;
  /** A running task has said how far it is. */
  readonly onProgress: (task: TaskEntry) => void;
  /** What running tasks of the endpoint have written. */
  readonly onOutput: (endpointId: string, pieces: readonly OutputPiece[]) => void;
  readonly onReport: (queue: EndpointQueue, report: EndpointReport) => void;
  readonly onClose: (session: AgentSession) => void;
}

type AgentFrame = Extract<Frame, { t: typeof FRAMES_UP.service extends Set<infer K> ? K : never }>;

type AgentItem = TaskItem & { readonly fn: TaskEntry["fn"] };

export class AgentSession implements AgentLease {
  readonly endpointId: string;
  /** The endpoint and its agent's key: what the connection was opened with. */
  readonly keyId: string;
  readonly #tokenEpoch: number | undefined;
  readonly #endpointKey: IdKey;
  readonly #ownerId: string;
  readonly #ownerKey: IdKey;
  readonly #deps: AgentSessionDeps;
  readonly #socket: FrameSocket<AgentFrame["t"]>;
  readonly #log: Logger;
  readonly #credit = new Credit();
  readonly #inbox = new Inbox();
  /** Tasks sent, for the agent's marks; custody itself is in PostgreSQL. */
  readonly #sent = new Outbox<TaskEntry>();
  readonly #sentFunctions = new Set<number>();
  #phase: "opening" | "claiming" | "open" | "closed" = "opening";
  #queue: EndpointQueue | undefined;
  /** Whether its first credit has come, and how many tasks its hello listed. */
  #opened = false;
  #held = 0;
  /** It is not read, as its results would gather here. */
  #waits = false;
  #markTimer: NodeJS.Timeout | undefined;
  #marked: Mark = { accepted: 0, durable: 0 };
  readonly #helloTimer: NodeJS.Timeout;
  /** Twice what an honest agent sends: nobody fills the store faster. */
  readonly #outputBudget = new ByteBudget(2 * limits.OUTPUT_BYTES_PER_S);

  constructor(upgraded: Upgraded, who: LinkedAgent, deps: AgentSessionDeps) {
    this.endpointId = who.endpointId;
    this.#tokenEpoch = who.epoch;
    this.keyId = `${who.endpointId} ${who.keyPrint}`;
    this.#endpointKey = uuidToKey(who.endpointId)!;
    this.#ownerId = who.ownerId;
    this.#ownerKey = uuidToKey(who.ownerId)!;
    this.#deps = deps;
    this.#log = deps.log.child({ endpoint: who.endpointId });
    this.#socket = new FrameSocket({
      ...upgraded,
      kinds: FRAMES_UP.service,
      log: this.#log,
      onFrame: (frame) => this.#onFrame(frame),
      onDrain: () => this.#deps.dispatch.pump(this.#endpointKey),
      onClose: () => this.#onClose(),
    });
    this.#helloTimer = setTimeout(
      () => this.#socket.end("LINK_SILENT", { seconds: 10 }),
      limits.HELLO_TIMEOUT_MS,
    );
  }

  get epoch(): number {
    return this.#queue?.epoch ?? -1;
  }

  get room(): number {
    return this.#phase === "open" ? this.#credit.room : 0;
  }

  get roomBytes(): number {
    return this.#credit.roomBytes;
  }

  get paused(): boolean {
    return this.#socket.paused;
  }

  sendTasks(entries: TaskEntry[]): void {
    crashPoint("service.dispatch.before-send");
    this.#sendMark();
    this.#sendFunctions(entries);
    for (const entry of entries) entry.fence = fenceFor(this.epoch, entry.attempt);
    // The wire carries what remains of a limit, as no clock of another machine is trusted.
    const now: AgentItem[] = entries.some((entry) => entry.isLimited)
      ? entries.map((entry) => entry.itemNow(performance.now()))
      : entries;
    const items = this.#withSubmitters(now, entries);
    let bytes = 0;
    for (let from = 0; from < entries.length; ) {
      const n = batchLength(entries.length, from, (i) => entries[i]!.sizeBytes);
      const frame = buildTasks(items, from, n, (item) => item.fn.definition.digest);
      frame.first = this.#sent.sent + from + 1;
      this.#socket.send(frame);
      bytes += frame.args.length;
      from += n;
    }
    for (const entry of entries) this.#sent.push(entry);
    this.#credit.use(entries.length, bytes);
    crashPoint("service.dispatch.after-send");
  }

  /** P36b: whose each task is, where it is not the owner's; a client says nothing of that. */
  #withSubmitters(items: AgentItem[], entries: readonly TaskEntry[]): AgentItem[] {
    const isPlain = ({ ownerKey, options }: TaskEntry): boolean =>
      ownerKey === this.#ownerKey && options?.submitter === undefined;
    if (entries.every(isPlain)) return items;
    return items.map((item, i) => {
      const entry = entries[i]!;
      if (isPlain(entry)) return item;
      const { key, source, start, end, seals, sealAt, codec, attempt, fence, fn } = item;
      const { submitter: _, ...rest } = item.options ?? {};
      const options =
        entry.ownerKey === this.#ownerKey ? rest : { ...rest, submitter: keyToUuid(entry.ownerKey) };
      return { key, source, start, end, seals, sealAt, codec, attempt, fence, fn, options };
    });
  }

  sendCancel(keys: IdKey[], why?: "unbegun"): void {
    this.#socket.send({ t: "cancel", ids: keysToColumn(keys), ...(why && { why }) });
  }

  replaced(): void {
    this.#socket.end("LINK_REPLACED");
  }

  /** Its key is the endpoint's no longer. */
  revoked(): void {
    this.#socket.end("CREDENTIAL_REVOKED");
  }

  deleted(): void {
    this.#socket.end("ENDPOINT_NOT_FOUND", { id: this.endpointId });
  }

  /** Results of tasks that were never committed (P14). */
  sendUnknown(keys: IdKey[]): void {
    this.#socket.send({ t: "unknown", ids: keysToColumn(keys) });
  }

  /** The service is stopping: the agent connects to another replica, or waits. */
  drain(): void {
    this.#socket.end("DRAINING");
  }

  #onFrame(frame: AgentFrame): void {
    if (this.#phase !== "open") {
      if (this.#phase === "opening" && frame.t === "hello") void this.#open(frame);
      else this.#socket.end("FRAME_INVALID", { detail: `${frame.t} before the welcome` });
      return;
    }
    switch (frame.t) {
      case "results":
        this.#onResults(frame);
        return;
      case "credit":
        this.#credit.grant(frame.tasks, frame.bytes);
        if (this.#opened) this.#deps.dispatch.pump(this.#endpointKey);
        else {
          this.#opened = true;
          void this.#deps.dispatch.open(this.#endpointKey, this, this.#held + frame.tasks);
        }
        return;
      case "mark": {
        const released = this.#sent.mark(frame);
        if ("bad" in released) this.#socket.end("FRAME_INVALID", { detail: released.bad });
        else for (const entry of released) entry.accepted = true;
        return;
      }
      case "returned":
        this.#onReturned(columnToKeys(frame.ids));
        return;
      case "progress":
        if (frame.kind === "started") this.#onStarted(columnToKeys(frame.ids));
        else if (frame.kind === "progress") this.#onProgress(frame);
        return;
      case "output":
        this.#onOutput(frame);
        return;
      case "report":
        this.#queue!.reported = { report: readReport(frame.report), atMs: Date.now() };
        this.#deps.onReport(this.#queue!, this.#queue!.reported.report);
        return;
      case "need":
        void this.#onNeed(frame.functions);
        return;
      case "refused":
      case "hello":
        this.#socket.end("FRAME_INVALID", { detail: `${frame.t} does not belong here` });
        return;
      case "problem":
        this.#log.warn({ code: frame.code, problem: frame.message }, "the agent complains");
        return;
      case "drain":
      case "bye":
        this.#log.info({ code: frame.code }, "the agent says goodbye");
        return;
      case "ping":
      case "pong":
        return;
    }
  }

  async #open(hello: HelloFrame): Promise<void> {
    clearTimeout(this.#helloTimer);
    const agreed = agreeOrRefuse(this.#socket, hello);
    if (!agreed) return;
    this.#phase = "claiming";
    try {
      crashPoint("service.claim.before");
      const { pool, replicaId } = this.#deps;
      const claim = await claimEndpoint(pool, this.#endpointKey, replicaId, hello, this.#tokenEpoch);
      crashPoint("service.claim.after");
      if (claim === undefined || claim === "used") {
        const code = claim === "used" ? "SESSION_TOKEN_USED" : "ENDPOINT_NOT_FOUND";
        const params = { id: this.endpointId };
        this.#socket.send({ t: "refuse", code, message: errorMessage(code, params) });
        this.#socket.end(code, params);
        return;
      }
      const held = hello.held ? columnToKeys(hello.held) : [];
      this.#held = held.length;
      const { queue, drop } = await this.#deps.dispatch.attach(this.#endpointKey, claim, this, {
        keys: held,
        attemptOf: (i) => u32Of(hello.heldAttempts, i, 1),
        bootId: hello.bootId ?? hello.agent?.bootId,
      });
      this.#queue = queue;
      crashPoint("service.claim.attached");
      if (this.#socket.closed) {
        this.#deps.dispatch.detach(this.#endpointKey, this);
        return;
      }
      this.#phase = "open";
      sendWelcome(this.#socket, agreed);
      if (drop.length > 0) this.sendCancel(drop);
      this.#log.info(
        { epoch: queue.epoch, held: held.length, software: hello.software },
        "endpoint connected",
      );
    } catch (err) {
      this.#log.error({ err }, "a hello could not be settled");
      this.#socket.end("NOT_READY");
    }
  }

  #onResults(frame: ResultsFrame): void {
    const wrong = misplaced(frame.first, this.#inbox.received);
    if (wrong !== undefined) {
      this.#socket.end("FRAME_INVALID", { detail: wrong });
      return;
    }
    const span = this.#inbox.receive(frame.n);
    const queue = this.#queue!;
    if (planted("mark-before-commit") && this.#inbox.complete(span)) this.#sendMark();
    this.#deps.collect.take(queue, this.#ownerId, frame, {
      settle: (unknown) => {
        if (unknown.length > 0) this.sendUnknown(unknown);
        if (this.#inbox.complete(span)) this.#scheduleMark();
      },
      // One that was replaced stops for good: a failure of ours must not be taken for that.
      stale: (failed) => (failed ? this.#socket.end("NOT_READY") : this.replaced()),
    });
    if (this.#deps.collect.crowded && !this.#waits) {
      this.#waits = true;
      this.#socket.hold(true);
      this.#deps.collect.whenRoom(() => {
        this.#waits = false;
        this.#socket.hold(false);
      });
    }
  }

  #onReturned(keys: IdKey[]): void {
    const entries: TaskEntry[] = [];
    for (const key of keys) {
      const entry = this.#queue!.held.get(key);
      if (entry && entry.state !== "QUEUED") entries.push(entry);
    }
    const cancelled = entries.filter((e) => e.cancelRequested).map((e) => e.key);
    this.#deps.dispatch.requeue(this.#endpointKey, entries);
    if (cancelled.length > 0) void this.#deps.dispatch.cancel(cancelled);
  }

  #onStarted(keys: IdKey[]): void {
    const started: TaskEntry[] = [];
    for (const key of keys) {
      const entry = this.#queue!.held.get(key);
      if (entry?.state !== "LEASED") continue;
      entry.state = entry.step({ kind: "start" }).state as "STARTED";
      entry.progress = undefined;
      started.push(entry);
    }
    if (started.length > 0) this.#deps.onStarted(started);
  }

  #onProgress({ ids, done, total }: ProgressFrame): void {
    const entry = this.#queue!.held.get(keyAt(ids));
    // A cancelled or returned task's last words are of nobody any more.
    if (entry?.state !== "STARTED") return;
    entry.progress = { done: done!, ...(total !== undefined && { total }) };
    this.#deps.onProgress(entry);
  }

  /** Of the tasks that it was sent and in the attempt that it has: of all else it has nothing to say. */
  #onOutput(frame: OutputFrame): void {
    const pieces = piecesOf(frame).filter(({ key, attempt, data }) => {
      const entry = this.#queue!.held.get(key);
      const isIts = entry?.committed && entry.state !== "QUEUED" && entry.attempt === attempt;
      return isIts && entry.awaits === 0 && this.#outputBudget.take(data.length);
    });
    if (pieces.length > 0) this.#deps.onOutput(this.endpointId, pieces);
  }

  /** An agent reads the functions of what it holds, whoever's they are, and no others. */
  async #onNeed(digests: Buffer[]): Promise<void> {
    const wanted = new Set(digests.slice(0, 64).map((digest) => digest.toString("latin1")));
    const found = new Map<string, TaskEntry["fn"]>();
    for (const { fn, state } of this.#queue!.held.values()) {
      if (state === "QUEUED") continue;
      const key = fn.definition.digest.toString("latin1");
      if (wanted.has(key)) found.set(key, fn);
      if (found.size === wanted.size) break;
    }
    if (found.size === 0) return;
    const fns = [...found.values()];
    const defs = fns.map((fn) => fn.definition);
    const refs = fns.map((fn) => fn.ref);
    try {
      const signatures = await this.#deps.signatures.told(fns);
      if (!this.#socket.closed) this.#socket.send({ t: "functions", defs, refs, signatures });
    } catch (err) {
      // An agent that enforces asks again; none must wait for the code.
      this.#log.warn({ err }, "signatures could not be read");
      if (!this.#socket.closed) this.#socket.send({ t: "functions", defs, refs });
    }
  }

  #sendFunctions(entries: TaskEntry[]): void {
    let last: TaskEntry["fn"] | undefined;
    for (const { fn } of entries) {
      if (fn === last) continue;
      last = fn;
      // By name too: an agent may allow one name of several that the same code has.
      if (this.#sentFunctions.has(fn.key)) continue;
      // Sending one again does no harm (P19).
      if (this.#sentFunctions.size >= MAX_SENT_FUNCTIONS) this.#sentFunctions.clear();
      this.#sentFunctions.add(fn.key);
      this.#socket.send({ t: "functions", defs: [fn.definition], refs: [fn.ref] });
    }
  }

  /** A mark goes along with the next tasks, or alone after a moment: the agent waits for it with nothing. */
  #scheduleMark(): void {
    const { durable } = this.#inbox.mark;
    if (durable - this.#marked.durable >= MARK_RESULTS) this.#sendMark();
    else this.#markTimer ??= setTimeout(() => this.#sendMark(), MARK_MS);
  }

  #sendMark(): void {
    clearTimeout(this.#markTimer);
    this.#markTimer = undefined;
    const mark = this.#inbox.mark;
    if (mark.durable === this.#marked.durable) return;
    this.#marked = mark;
    crashPoint("service.collect.before-mark");
    this.#socket.send({ t: "mark", accepted: mark.accepted, durable: mark.durable });
    crashPoint("service.collect.after-mark");
  }

  #onClose(): void {
    const opened = this.#phase === "open";
    this.#phase = "closed";
    clearTimeout(this.#helloTimer);
    clearTimeout(this.#markTimer);
    this.#deps.dispatch.detach(this.#endpointKey, this);
    if (opened && this.#queue) {
      this.#log.info({ epoch: this.#queue.epoch }, "endpoint disconnected");
    }
    this.#deps.onClose(this);
  }
}
