/**
 * The agent's road, and the map of this folder:
 *
 *     service ══► link ══► journal ══► scheduler ══► nodes' lines       tasks
 *     service ◄── link ◄── results ◄── journal  ◄─── nodes' lines       results
 *
 * Everything that happens in one turn of the event loop is applied to the scheduler and appended to the
 * journal at once, and then, at the turn's end: one journal write, and only after it whatever acknowledges,
 * hands out or sends.
 *
 *   E1  Nothing staged leaves before the journal's commit: the accepted mark (A2), tasks to a node (A3),
 *       results and their mark to the node. A commit that fails is tried again, and no credit is given meanwhile.
 *   E2  A result is forgotten only when the service's durable mark covers it (A5, P12).
 *   E3  Ids are known: what is held or finished is not run again (P11); a kept result answers (P14).
 *   E4  The first credit of a session follows the unacknowledged results (P15).
 *   E5  What this agent may not run (`--allow-function`) is answered before it is run, from the journal too; so is what
 *       it does not trust (trust/).
 *
 * Bounds: held tasks by the credit window; results by the same, and nothing is handed out while they exceed
 * 64 MiB; what one turn stages by credit too.
 */
import {
  type AgentAuditEntry,
  type AgentInfo,
  CAPABILITIES,
  columnToKeys,
  type EndpointReport,
  errorMessage,
  type Frame,
  type HelloFrame,
  type IdKey,
  isolationSuffices,
  keyAt,
  keysToColumn,
  keyToUuid,
  limits,
  type ResultsFrame,
  type TasksFrame,
  type WelcomeFrame,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import type { AllowedFunctions } from "./allowed-functions.js";
import type { AuditLog } from "./audit/audit-log.js";
import type { TaskAudit } from "./audit/task-audit.js";
import type { FunctionsCache } from "./functions-cache.js";
import { FunctionsDesk } from "./functions-desk.js";
import { asStrangers } from "./isolation/unknown-submitters.js";
import { type JournalRecord, RECORD } from "./journal/format.js";
import type { Journal, Replay } from "./journal/journal.js";
import { idsRecord, liveRecords, replayRecords, startedRecord } from "./journal/snapshot.js";
import type { DownFrame, EndReason, LinkSession } from "./link/connection.js";
import { CreditWindow } from "./link/credit-window.js";
import { ServiceStream } from "./link/service-stream.js";
import type { LinkUser } from "./link/supervisor.js";
import { OutputGate } from "./live/output-gate.js";
import { Reporter } from "./live/reporter.js";
import type { FramePort } from "./node/port.js";
import { LOCAL_NODE } from "./nodes/names.js";
import { type AttachedNode, NodeLines } from "./nodes/node-lines.js";
import { hasReference, type TaskFiles } from "./payloads/task-files.js";
import { Rest } from "./rest.js";
import { KeptResults } from "./results/kept-results.js";
import { Outcomes } from "./results/outcomes.js";
import { ResultSender, resultBytes } from "./results/result-sender.js";
import { idColumns, settle } from "./results/settle.js";
import { functionOf, type HeldState, type HeldTask, leaseColumns, optionsOf } from "./scheduler/held-task.js";
import { Scheduler, type SchedulerEffect, type SchedulerEvent } from "./scheduler/scheduler.js";
import { tasksFrames } from "./scheduler/task-frames.js";
import { TaskTimers } from "./scheduler/task-timers.js";
import type { TaskTokens } from "./task-tokens.js";
import type { FunctionTrust } from "./trust/function-trust.js";
import { Turn } from "./turn.js";

/** Unacknowledged results above this stop the handing out of tasks. */
const MAX_RESULT_BYTES = 64 * 1024 * 1024;
export interface EngineOptions {
  readonly journal: Journal;
  readonly replay: Replay;
  readonly bootId: string;
  readonly functions: FunctionsCache;
  readonly allowed: AllowedFunctions;
  readonly trust: FunctionTrust;
  readonly audit: AuditLog;
  readonly taskAudit: TaskAudit;
  readonly files: TaskFiles;
  readonly taskTokens: TaskTokens;
  /** Whether a node lives in this process; what only such a node may have started is lost where there is none. */
  readonly hasLocalNode: boolean;
  /** Tasks that the node in this process runs at the same time. */
  readonly localPlaces: number;
  readonly windowTasks: number;
  readonly windowBytes: number;
  readonly reclaimMs: number;
  readonly software: string;
  /** Its URL, as it is told to people. */
  readonly service: string;
  readonly agentInfo: AgentInfo;
  readonly log: Logger;
}

export interface EngineStatus {
  readonly tasks: Readonly<Record<"waiting" | "queued" | "handed" | "done" | "kept", number>>;
  readonly unackedResults: number;
  readonly journalBytes: number;
  readonly journalWritable: boolean;
  readonly draining: boolean;
}

/** What waits and what is at the nodes, for whoever decides how many nodes there should be. */
export interface WorkLoad {
  /** Places that the queued tasks would fill. */
  readonly queuedPlaces: number;
  readonly handed: number;
  readonly draining: boolean;
}

export class Engine implements LinkUser {
  readonly #options: EngineOptions;
  readonly #log: Logger;
  readonly #journal: Journal;
  readonly #nodes: NodeLines;
  readonly #functions: FunctionsDesk;
  readonly #trust: FunctionTrust;
  readonly #turn: Turn;
  readonly #rest = new Rest();
  readonly #files: TaskFiles;
  readonly #scheduler: Scheduler;
  readonly #sender = new ResultSender();
  readonly #kept = new KeptResults();
  readonly #service: ServiceStream;
  readonly #queueTimers: TaskTimers;
  readonly #deadlines: TaskTimers;
  readonly #outcomes: Outcomes;
  readonly #output: OutputGate;
  readonly #reporter: Reporter;

  readonly #audit: AuditLog;
  /** Whether something waits for a commit; what is only forgotten does not. */
  #urgent = false;
  #stuck = false;
  /** Whether tasks are staged for a node. */
  #hands = false;
  /** Whether this life's snapshot is still to be written, as the disk is full. */
  #owesSegment = false;
  #keptTimer: NodeJS.Timeout | undefined;
  /** Whether the service of this session knows how far tasks say they are (P21). */
  #tellsProgress = false;
  /** Whether it hears how this endpoint stands (P32). */
  #tellsReport = false;
  /** Whether it says whose each task is (P36b), where that is to be known. */
  #knowsSubmitters = true;
  #draining = false;
  #closed = false;
  #onQuiet: (() => void) | undefined;
  /** Hears at each turn's end that the work may have changed. */
  onWork: () => void = () => undefined;
  /** How its blocks stand, where it has any. */
  blocksReport: () => Pick<EndpointReport, "provider" | "blocks" | "failure"> = () => ({});

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#journal = options.journal;
    this.#audit = options.audit;
    this.#turn = new Turn((lazyToo) => this.#flush(lazyToo));
    this.#functions = new FunctionsDesk({
      cache: options.functions,
      toService: (frame) => this.#service.stage(frame),
      toNode: (node, frame) => this.#nodes.stage(node, frame),
      // Only its definition says what isolation it wants.
      onReady: (task) => this.#refuse(task) || this.#apply({ kind: "ready", task }),
      log: options.log,
    });
    this.#trust = options.trust;
    this.#trust.attach({
      toService: (frame) => this.#service.stage(frame),
      onReady: (task) => {
        this.#apply({ kind: "ready", task });
        this.#turn.atEnd();
      },
      onRefused: (task, outcome) => {
        this.#outcomes.finishHere([task], outcome);
        this.#turn.atEnd();
      },
    });
    this.#trust.onChange = () => {
      this.#note({ what: "trust.changed", ...this.#trust.standing });
      this.#refuseQueued();
      this.#turn.atEnd();
    };
    this.#scheduler = new Scheduler((digest) => this.#functions.demandOf(digest));
    this.#nodes = new NodeLines({
      functions: this.#functions,
      taskTokens: options.taskTokens,
      log: options.log,
      apply: (event) => this.#ofNode(event),
      onResults: (frame, node) => this.#takeResults(frame, node),
      onProgress: (frame) => this.#takeProgress(frame),
      onOutput: (frame, node) => this.#output.take(frame, node),
      onHeld: (node, keys) => this.#endStrays(node, keys),
      onTurn: () => this.#turn.soon(),
    });
    this.#files = options.files;
    this.#service = new ServiceStream(
      new CreditWindow(options.windowTasks, options.windowBytes),
      this.#sender,
    );
    const timers = (limit: "queueTimeoutMs" | "deadlineMs", kind: "expired" | "deadline") =>
      new TaskTimers(
        (task) => optionsOf(task)?.[limit],
        (task) => {
          this.#apply({ kind, task });
          this.#turn.atEnd();
        },
      );
    this.#queueTimers = timers("queueTimeoutMs", "expired");
    this.#deadlines = timers("deadlineMs", "deadline");
    this.#outcomes = new Outcomes({
      scheduler: this.#scheduler,
      files: options.files,
      append: (record) => this.#append(record),
      onFinished: (tasks) => {
        this.#disarm(tasks);
        this.#turn.lazily();
      },
      audit: options.taskAudit,
      onReady: () => this.#turn.atEnd(),
    });
    this.#output = new OutputGate({
      attemptOn: (node, key) => this.#scheduler.attemptOn(node, key),
      send: (frame) => this.#service.sendNow(frame),
    });
    this.#reporter = new Reporter({
      read: () => this.#report(),
      send: (frame) => this.#tellsReport && this.#service.sendNow(frame),
    });
    this.#restore(options.replay);
  }

  get status(): EngineStatus {
    const count = (state: HeldState): number => this.#scheduler.count(state);
    return {
      tasks: {
        waiting: count("waiting"),
        queued: count("queued"),
        handed: count("handed"),
        done: count("done"),
        kept: count("kept"),
      },
      unackedResults: this.#sender.unacked,
      journalBytes: this.#journal.sizeBytes,
      journalWritable: !this.#stuck,
      draining: this.#draining,
    };
  }

  // ─── the link ──────────────────────────────────────────────────────────────────────────────────────────

  hello(): HelloFrame {
    crashPoint("agent.hello.before-send");
    this.#flush(true);
    const held: HeldTask[] = [];
    for (const task of this.#scheduler.tasks()) {
      if (task.state === "waiting" || task.state === "queued" || task.state === "handed") held.push(task);
    }
    held.push(...this.#outcomes.pending());
    const { software, agentInfo } = this.#options;
    return {
      t: "hello",
      role: "agent",
      versions: [...limits.SUPPORTED_VERSIONS],
      caps: [...CAPABILITIES],
      software,
      held: keysToColumn(held.map((task) => task.key)),
      ...leaseColumns(held),
      unacked: this.#sender.unacked,
      bootId: this.#journal.custodyId,
      reclaimMs: this.#options.reclaimMs,
      agent: agentInfo,
    };
  }

  opened(session: LinkSession, welcome: WelcomeFrame): void {
    this.#service.open(session);
    const { session: name, software } = welcome;
    this.#note({ what: "link.opened", service: this.#options.service, session: name, software });
    this.#tellsProgress = welcome.caps.includes("progress");
    this.#output.opened(welcome.caps.includes("stream"));
    this.#tellsReport = welcome.caps.includes("report");
    this.#knowsSubmitters = !this.#isBoxed || welcome.caps.includes("submitter");
    this.#reporter.opened();
    const running: IdKey[] = [];
    for (const task of this.#scheduler.tasks())
      if (task.running && task.state === "handed") running.push(task.key);
    if (running.length > 0)
      this.#service.stage({ t: "progress", ids: keysToColumn(running), kind: "started" });
    this.#functions.serviceCame();
    this.#trust.serviceCame();
    if (this.#draining) this.#beginDrain();
    this.#turn.atEnd();
  }

  closed({ code }: EndReason): void {
    this.#note({ what: "link.lost", code });
    this.#service.close();
    this.#trust.serviceWent();
    this.#output.closed();
    this.#checkQuiet();
  }

  writable(): void {
    this.#turn.atEnd();
  }

  frame(frame: DownFrame, bytes: Buffer): void {
    switch (frame.t) {
      case "tasks":
        this.#takeTasks(frame, bytes);
        break;
      case "functions":
        for (const [i, def] of frame.defs.entries()) {
          this.#functions.arrived(def, frame.refs?.[i]);
          this.#trust.told(def.digest, frame.signatures?.[i]);
        }
        break;
      case "mark":
        this.#service.marked(frame);
        break;
      case "cancel":
        this.#apply({ kind: "cancel", keys: columnToKeys(frame.ids), unbegunOnly: frame.why === "unbegun" });
        break;
      case "unknown":
        this.#keepAside(columnToKeys(frame.ids));
        break;
      case "drain":
        this.#log.info({ code: frame.code, reason: frame.message }, "the service is stopping");
        return;
      case "problem":
        this.#log.warn({ code: frame.code, reason: frame.message }, "the service complains");
        return;
      case "welcome":
      case "refuse":
      case "bye":
      case "ping":
      case "pong":
        return;
    }
    this.#turn.atEnd();
  }

  /** Whether workers serve one submitter each. */
  get #isBoxed(): boolean {
    return isolationSuffices(this.#options.agentInfo.isolation?.level, "namespaces");
  }

  #takeTasks(came: TasksFrame, asItCame: Buffer): void {
    if (!this.#service.received(came)) return;
    const { frame, bytes } = this.#knowsSubmitters ? { frame: came, bytes: asItCame } : asStrangers(came);
    if (this.#draining) {
      this.#service.stage({ t: "returned", ids: frame.ids });
      return;
    }
    const needs = this.#needsOf(frame);
    this.#append({ type: RECORD.accepted, payload: bytes });
    this.#apply({ kind: "accepted", frame, atMs: performance.now(), ...(needs ? { needs } : {}) });
    if (frame.opts) {
      for (const index in frame.opts) {
        const task = this.#scheduler.get(keyAt(frame.ids, 16 * Number(index)));
        if (task?.state === "queued" || task?.state === "waiting") {
          this.#queueTimers.arm(task);
          this.#deadlines.arm(task);
        }
      }
    }
  }

  /** How many things each task of a batch waits for, or undefined where none waits. */
  #needsOf(frame: TasksFrame): ((i: number) => number) | undefined {
    const lacks = this.#functions.lacksOf(frame);
    const refused = this.#options.allowed.refusedOf(frame.fns);
    const waits = this.#trust.waitsOf(frame);
    if (!lacks.includes(1) && !refused && !waits && !hasReference(frame.codecs)) return undefined;
    return (i) => {
      const of = frame.fn === undefined ? 0 : frame.fn.readUInt16LE(2 * i);
      const codec = typeof frame.codecs === "number" ? frame.codecs : frame.codecs[i]!;
      return lacks[of]! + (refused?.[of] ?? 0) + (waits?.(i) ? 1 : 0) + ((codec & 128) !== 0 ? 1 : 0);
    };
  }

  #meetNeeds(task: HeldTask, isRestored = false): void {
    if (this.#refuse(task)) return;
    this.#functions.await(task);
    if (this.#trust.holds(task)) this.#trust.admit(task, isRestored);
    if (task.state === "done") return;
    void this.#files.fetchArguments(task)?.then((outcome) => {
      if (this.#closed) return;
      if (outcome.ok) this.#apply({ kind: "ready", task });
      else if (task.state === "waiting") this.#outcomes.failForPayload(task, outcome.message);
      this.#turn.atEnd();
    });
  }

  /** E5: answers for a task whose function is not allowed here. */
  #refuse(task: HeldTask): boolean {
    const { allowed } = this.#options;
    const digest = functionOf(task);
    if (allowed.allows(digest)) return false;
    this.#log.warn(
      { task: keyToUuid(task.key), function: digest.toString("hex") },
      "a task was refused: its function is not allowed here",
    );
    this.#outcomes.finishHere([task], allowed.refusal(digest));
    return true;
  }

  /** E5: what was handed down under another list, and has come back unbegun, is asked about before it goes again. */
  #refuseQueued(isFirst = false): void {
    const asksList = isFirst || this.#options.allowed.mayRefuse;
    if (!asksList && !this.#trust.isOn) return;
    for (const task of [...this.#scheduler.tasks()]) {
      if (task.state !== "queued" || (asksList && this.#refuse(task))) continue;
      const outcome = this.#trust.isOn ? this.#trust.refusalOf(task) : undefined;
      if (outcome !== undefined) this.#outcomes.finishHere([task], outcome);
    }
  }

  /** P14 */
  #keepAside(keys: readonly IdKey[]): void {
    const tasks: HeldTask[] = [];
    for (const key of keys) {
      this.#apply({ kind: "unknown", key });
      const task = this.#scheduler.get(key);
      if (task?.state !== "kept") continue;
      tasks.push(task);
      this.#kept.add(task, performance.now());
    }
    if (tasks.length === 0) return;
    this.#append(idsRecord(RECORD.kept, tasks));
    this.#expireKept();
  }

  #expireKept(): void {
    clearTimeout(this.#keptTimer);
    const gone = this.#kept.expire(performance.now());
    if (gone.length > 0) {
      this.#append(idsRecord(RECORD.acked, gone));
      this.#forget(gone);
      this.#turn.atEnd();
    }
    const nextMs = this.#kept.nextExpiryMs;
    if (nextMs === undefined) return;
    this.#keptTimer = setTimeout(() => this.#expireKept(), Math.max(1000, nextMs - performance.now()));
    this.#keptTimer.unref();
  }

  /** E2 */
  #applyServiceMark(): void {
    const released = this.#service.takeReleased();
    const done = released.filter((task) => task.state === "done");
    if (done.length === 0) return;
    crashPoint("agent.ack.before-record");
    // Should it never be written, the results are sent once more, and the service knows them.
    for (const ids of idColumns(done)) this.#journal.append(RECORD.acked, ids);
    this.#forget(done);
    crashPoint("agent.ack.recorded");
    this.#turn.lazily();
  }

  // ─── the nodes ─────────────────────────────────────────────────────────────────────────────────────────

  get work(): WorkLoad {
    return {
      queuedPlaces: this.#scheduler.queuedPlaces,
      handed: this.#scheduler.count("handed"),
      draining: this.#draining,
    };
  }

  /** A session of a node begins. */
  attachNode(node: AttachedNode, port: FramePort): void {
    this.#nodes.attach(node, port);
  }

  /** What it had, or may have, started is lost; it does not come back. */
  nodeLost(node: string): void {
    if (!this.#closed) this.#nodes.lost(node);
  }

  /** It takes nothing more and gives back what has not started, over any reconnect. */
  drainNode(node: string): void {
    if (!this.#closed) this.#nodes.drain(node, DRAIN);
  }

  /** How its blocks stand may have changed. */
  blocksChanged(): void {
    this.#reporter.changed();
  }

  #report(): EndpointReport {
    const { places, ...nodes } = this.#scheduler.nodes;
    return {
      draining: this.#draining,
      queued: this.#scheduler.count("queued") + this.#scheduler.count("waiting"),
      handed: this.#scheduler.count("handed"),
      ...nodes,
      places: places ?? (this.#options.hasLocalNode ? this.#options.localPlaces : undefined),
      ...this.blocksReport(),
    };
  }

  /** Tasks that the node was handed and that have no outcome. */
  handedTo(node: string): number {
    return this.#scheduler.handedTo(node);
  }

  /** The nodes that have tasks, connected or not. */
  nodesWithTasks(): Set<string> {
    const names = new Set<string>();
    for (const task of this.#scheduler.tasks())
      if (task.state === "handed" && task.node !== undefined) names.add(task.node);
    return names;
  }

  /** What a node may have given back unbegun is asked about before it goes to another (E5). */
  #ofNode(event: SchedulerEvent): void {
    this.#apply(event);
    if (event.kind === "node_returned" || event.kind === "node_up" || event.kind === "node_lost")
      this.#refuseQueued(event.kind === "node_up");
  }

  #takeProgress(frame: Extract<Frame, { t: "progress" }>): void {
    if (frame.kind === "started") {
      this.#apply({ kind: "node_started", keys: columnToKeys(frame.ids) });
    }
    if (frame.kind !== "progress" || this.#tellsProgress) this.#service.stage(frame);
  }

  #takeResults(frame: ResultsFrame, node: string): void {
    crashPoint("agent.result.before-journal");
    const settled = settle(frame, this.#scheduler, node);
    if (settled) this.#outcomes.finished(settled);
  }

  /** What a node of a block holds and is not its own any more, as it was given up for lost, is ended there. */
  #endStrays(node: string, held: ReadonlySet<IdKey>): void {
    if (node === LOCAL_NODE) return;
    const strays = [...held].filter((key) => this.#scheduler.get(key)?.node !== node);
    if (strays.length > 0) this.#nodes.stage(node, { t: "cancel", ids: keysToColumn(strays) });
  }

  // ─── decisions ─────────────────────────────────────────────────────────────────────────────────────────

  /** Carries out what the scheduler decides. What leaves the process is staged until the commit (E1). */
  #apply(event: SchedulerEvent): void {
    for (const effect of this.#scheduler.handle(event)) this.#carryOut(effect);
  }

  #carryOut(effect: SchedulerEffect): void {
    switch (effect.do) {
      case "hand":
        crashPoint("agent.start.before-record");
        for (const frame of tasksFrames(effect.tasks)) {
          const recordMs = planted("started-after-handover") ? 2000 : 0;
          const record = startedRecord(effect.node, frame.ids);
          if (recordMs === 0) this.#append(record);
          else setTimeout(() => this.#append(record), recordMs);
          this.#options.taskAudit.started(effect.node, frame);
          this.#hands = true;
          this.#functions.beforeTasks(effect.node, frame);
          this.#nodes.stage(effect.node, frame);
        }
        return;
      case "wait":
        for (const task of effect.tasks) this.#meetNeeds(task);
        return;
      case "answer":
        this.#kept.take(effect.task.key);
        this.#outcomes.stage([effect.task], true);
        return;
      case "finish":
        this.#outcomes.finishHere(effect.tasks, effect);
        return;
      case "cancel_on_node":
        this.#nodes.stage(effect.node, { t: "cancel", ids: keysToColumn(effect.keys), why: effect.why });
        return;
      case "recall":
        this.#nodes.stage(effect.node, { t: "recall", tasks: effect.tasks });
        return;
      case "unhand":
        this.#append(idsRecord(RECORD.unstarted, effect.tasks));
        this.#options.taskAudit.returned(effect.tasks);
        return;
      case "return": {
        // Without a connection they stay in the journal, for the agent that comes next.
        if (!this.#service.isOpen) return;
        const record = idsRecord(RECORD.returned, effect.tasks);
        this.#append(record);
        this.#service.stage({ t: "returned", ids: record.payload });
        this.#trust.returned(effect.tasks);
        this.#forget(effect.tasks);
        return;
      }
    }
  }

  /** Into the audit, with what else is written soon. */
  #note(entry: AgentAuditEntry): void {
    this.#audit.entry(entry);
    this.#turn.lazily();
  }

  #append(record: JournalRecord): void {
    this.#journal.append(record.type, record.payload);
    this.#urgent = true;
    this.#rest.stir();
  }

  #forget(tasks: readonly HeldTask[]): void {
    this.#scheduler.handle({ kind: "forget", tasks });
    this.#disarm(tasks);
    this.#files.release(tasks);
  }

  #disarm(tasks: readonly HeldTask[]): void {
    this.#queueTimers.disarm(tasks);
    this.#deadlines.disarm(tasks);
  }

  // ─── the turn ──────────────────────────────────────────────────────────────────────────────────────────

  #flush(lazyToo = false): void {
    this.#turn.begins();
    if (this.#closed) return;
    this.#applyServiceMark();
    if (!this.#stuck) {
      const paused = this.#sender.heldBytes > MAX_RESULT_BYTES || this.#audit.isFull;
      this.#apply({ kind: "dispatch", atMs: performance.now(), paused });
    }
    if (this.#urgent || lazyToo || this.#stuck) {
      if ((this.#owesSegment && !this.#beginSegment()) || !this.#commit()) {
        this.#stuck = true; // E1
        this.#turn.again();
        return;
      }
      if (this.#stuck) this.#turn.atEnd(); // What was not dispatched meanwhile is now.
      this.#urgent = this.#stuck = false;
    }
    // What is handed out is told of before; what has ended may wait for it.
    if ((this.#hands || lazyToo) && !this.#audit.write()) this.#turn.again();
    this.#hands = false;
    this.#release(lazyToo);
    if (this.#journal.isWasteful(() => this.#liveBytes())) this.#compact();
    this.#checkQuiet();
    this.onWork();
    this.#reporter.changed();
  }

  /** On a full disk a segment with what is live may still fit, and then the rest is given back to the disk. */
  #commit(): boolean {
    if (this.#journal.commit()) return true;
    return this.#journal.isCompressible(() => this.#liveBytes()) && this.#compact();
  }

  /** Everything staged leaves: the commit covers it. */
  #release(lazyToo: boolean): void {
    this.#nodes.release();
    for (const batch of this.#outcomes.takeReady()) {
      this.#sender.add(batch);
      if (planted("forget-before-ack")) {
        this.#append(idsRecord(RECORD.acked, batch.tasks));
        this.#turn.atEnd();
      }
    }
    const wanted = this.#service.release({
      lazyToo,
      mayGrant: !this.#draining,
      heldTasks: this.#scheduler.heldTasks,
      heldBytes: this.#scheduler.heldBytes,
    });
    if (wanted === "lazy") this.#turn.lazily();
    else if (wanted === "next") this.#turn.atEnd();
  }

  #liveBytes(): number {
    let bytes = 0;
    for (const task of this.#scheduler.tasks())
      bytes += 64 + task.sizeBytes + (task.result ? resultBytes(task) : 0);
    return bytes;
  }

  /** A life begins with a snapshot of what it took over. False, and stuck, where that cannot be written yet. */
  #beginSegment(): boolean {
    try {
      this.#journal.compact(liveRecords(this.#scheduler));
    } catch (error) {
      this.#log.warn(
        { err: error },
        "the journal cannot be begun; nothing is taken or acknowledged until it can",
      );
      this.#owesSegment = this.#stuck = true;
      this.#turn.again();
      return false;
    }
    this.#owesSegment = false;
    return true;
  }

  #compact(): boolean {
    try {
      this.#journal.compact(liveRecords(this.#scheduler));
      return true;
    } catch (error) {
      this.#log.warn({ err: error }, "the journal cannot be compacted; it grows until it can");
      return false;
    }
  }

  // ─── beginning and end ─────────────────────────────────────────────────────────────────────────────────

  #restore(replay: Replay): void {
    const nowMs = performance.now();
    const bad = replayRecords(replay.records, {
      scheduler: this.#scheduler,
      nowMs,
      needsOf: (frame) => this.#needsOf(frame),
      onKept: (task) => this.#kept.add(task, nowMs),
      onWanted: (key) => this.#kept.take(key),
    });
    if (bad > 0) this.#log.warn({ records: bad }, "journal records were skipped: their frames are not valid");
    const isOtherBoot = replay.bootId !== undefined && replay.bootId !== this.#options.bootId;
    if (isOtherBoot || replay.damaged) {
      // Its last words may be missing: what it calls queued may have been handed down, and may have run.
      this.#apply({ kind: "mistrusted", node: LOCAL_NODE });
      this.#log.warn(
        { otherBoot: isOtherBoot, damaged: replay.damaged, tasks: this.#scheduler.count("handed") },
        "the journal may lack its last words: what it holds unfinished counts as maybe started",
      );
      for (const node of [LOCAL_NODE, ...this.nodesWithTasks()]) this.#nodes.doubt(node);
    }
    const finished: HeldTask[] = [];
    for (const task of [...this.#scheduler.tasks()]) {
      if (task.state === "waiting") this.#meetNeeds(task, true);
      else if (task.state === "handed") this.#files.pinArguments(task);
      else if (task.state === "done") finished.push(task);
      if (task.state === "waiting" || task.state === "queued") this.#queueTimers.arm(task);
      if (task.state !== "done" && task.state !== "kept") this.#deadlines.arm(task);
    }
    this.#outcomes.stage(finished, true);
    if (isOtherBoot || !this.#options.hasLocalNode) {
      // Workers in this process did not survive the boot, and nobody can say what of it had started.
      this.#apply({ kind: "node_lost", node: LOCAL_NODE });
    }
    crashPoint("agent.boot.before-snapshot");
    this.#journal.compact(liveRecords(this.#scheduler));
    this.#expireKept();
    const { tasks } = this.status;
    if (this.#scheduler.heldTasks + tasks.kept > 0) this.#log.info({ ...tasks }, "resumed from the journal");
  }

  /**
   * Takes nothing new, gives back what has not started, and waits for what has: until all results are with the
   * service, or for at most `withinMs`. What still runs then stays with its worker and in the journal.
   */
  async drain(withinMs: number): Promise<{ readonly unfinished: number }> {
    this.takeNothingMore();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#onQuiet = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#turn.atEnd();
    });
    this.#onQuiet = undefined;
    return { unfinished: this.#scheduler.count("handed") };
  }

  /** Begins a drain: from here on nothing is taken, nothing is handed out, and what has not begun is asked back. */
  takeNothingMore(): void {
    if (this.#draining) return;
    this.#draining = true;
    this.#beginDrain();
    crashPoint("agent.drain.begun");
    this.#nodes.stage(LOCAL_NODE, DRAIN);
    this.#nodes.recallAll();
    this.#turn.atEnd();
  }

  /** Once in each session: tells the service, and gives back what has not started. */
  #beginDrain(): void {
    this.#service.stage(DRAIN);
    this.#apply({ kind: "drain" });
  }

  #checkQuiet(): void {
    if (this.#onQuiet === undefined || this.#scheduler.count("handed") > 0) return;
    // Without a connection nothing can be sent: the journal keeps it for the next start.
    if (!this.#service.isOpen || (this.#sender.unacked === 0 && !this.#outcomes.isUploading)) this.#onQuiet();
  }

  /** The nodes' connections are about to be closed by us: their end says nothing about their tasks, which the journal keeps. */
  expectEnd(): void {
    this.#nodes.expectEnd();
  }

  /** Stops at once. Everything accepted is in the journal. */
  close(): void {
    if (this.#closed) return;
    this.#flush(true);
    this.#audit.write();
    this.#nodes.expectEnd();
    this.#closed = true;
    this.#turn.close();
    this.#reporter.close();
    this.#rest.close();
    this.#outcomes.close();
    this.#trust.close();
    clearTimeout(this.#keptTimer);
    this.#queueTimers.clear();
    this.#deadlines.clear();
    this.#journal.close();
  }
}

const DRAIN = { t: "drain", code: "DRAINING", message: errorMessage("DRAINING") } as const;
