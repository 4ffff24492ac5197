/**
 * One client's connection: the service as the lower side of the client–service hop. Submissions come down and go
 * to intake; results of watched groups go up.
 *
 *   opening   entered by the upgrade; left by a good hello
 *   open      until the socket closes
 *
 * A client that does not read is paused: results gather here up to MAX_PENDING_*, then the connection is cut, and
 * the client's next `watch` brings them from PostgreSQL.
 */
import {
  batchLength,
  buildResults,
  byteOf,
  CODEC_REFERENCE,
  codecName,
  columnToKeys,
  endOf,
  FarloomError,
  FRAMES_DOWN,
  type Frame,
  functionIndexOf,
  type HelloFrame,
  type IdKey,
  Inbox,
  keyAt,
  keysToColumn,
  keyToUuid,
  limits,
  misplaced,
  Outbox,
  REFERENCE_BYTES,
  type ResultItem,
  SEAL_BYTES,
  type Span,
  startOf,
  type TasksFrame,
  TurnBatch,
} from "@farloom/protocol";
import { crashPoint } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import type { Deliver, ResultSink } from "../../deliver/deliver.js";
import type { Dispatch } from "../../dispatch/dispatch.js";
import { TaskEntry, type TaskProgress } from "../../dispatch/task-entry.js";
import type { EndpointGrant, EndpointRegistry } from "../../endpoints/registry.js";
import type { FunctionRecord, FunctionRegistry } from "../../functions/registry.js";
import { type NestedTokens, requireGroup, requireNesting } from "../../identity/nested.js";
import type { Principal } from "../../identity/principal.js";
import type { Groups } from "../../intake/groups.js";
import type { Intake } from "../../intake/intake.js";
import { requireFrame } from "../../link/frame-policy.js";
import { FrameSocket, type Upgraded } from "../../link/frame-socket.js";
import { agreeOrRefuse, sendWelcome } from "../../link/welcome.js";
import { type SecretUse, wantsSecrets } from "../../secrets/use.js";
import type { Clock } from "../../store/database-clock.js";
import { toKnownError } from "../../store/pg-errors.js";
import type { TaskReach } from "../../tasks/reach.js";

/** Tasks, and argument bytes, that one client may have on their way to the database. */
const WINDOW_TASKS = 16_384;
const WINDOW_BYTES = 32 * 1024 * 1024;
/** Results that gather for a client that does not read. */
const MAX_PENDING_RESULTS = 200_000;
const MAX_PENDING_BYTES = 64 * 1024 * 1024;
/** Tasks that a narrow key's connection may wait for at once: more than an owner may have open. */
const MAX_OWN_TASKS = 2_000_000;
/** Task groups that one connection watches. */
const MAX_WATCHED_GROUPS = 10_000;

/** Where cancels are recorded: the one thing of a link that changes what is there already. */
export interface CancelAudit {
  /** @throws FarloomError OVERLOADED where nothing more can be recorded. */
  requireRoom(): void;
  /** So many tasks were asked to be cancelled, or could not be, for the reason of this code. */
  cancelled(count: number, refused: string | undefined): void;
}

export interface ClientSessionDeps {
  readonly log: Logger;
  readonly intake: Intake;
  readonly groups: Groups;
  readonly dispatch: Dispatch;
  readonly deliver: Deliver;
  readonly functions: FunctionRegistry;
  readonly endpoints: EndpointRegistry;
  readonly secretUse: SecretUse;
  /** Asked before each frame where a running task speaks for itself. */
  readonly nested: NestedTokens;
  /** Which of the owner's tasks a narrow key sees. */
  readonly reach: TaskReach;
  readonly audit: CancelAudit;
  /** What the credential expires by. */
  readonly clock: Clock;
  readonly onClose: (session: ClientSession) => void;
}

type ClientFrame = Extract<Frame, { t: typeof FRAMES_DOWN.service extends Set<infer K> ? K : never }>;

export class ClientSession implements ResultSink {
  readonly #principal: Principal;
  readonly #deps: ClientSessionDeps;
  readonly #socket: FrameSocket<ClientFrame["t"]>;
  readonly #log: Logger;
  readonly #inbox = new Inbox();
  readonly #outbox = new Outbox<null>();
  readonly #groups = new Set<IdKey>();
  readonly #results: TurnBatch<ResultItem>;
  #pending: ResultItem[] = [];
  #pendingBytes = 0;
  #open = false;
  /** Of each endpoint, the last frame that waits for what it names to be looked up. */
  readonly #lookups = new Map<IdKey, Promise<void>>();
  /** Whether it named the capability. */
  #tellsProgress = false;
  /** Groups that are being looked up. */
  #watching = 0;
  #receivedBytes = 0;
  #openBytes = 0;
  /** What the client was told last. */
  readonly #credit = { tasks: 0, bytes: 0 };
  #markScheduled = false;
  /** With a narrow key: the tasks that this connection submitted or asked for. It hears of no other. */
  readonly #own: Set<IdKey> | undefined;
  readonly #timers: NodeJS.Timeout[];

  constructor(upgraded: Upgraded, principal: Principal, deps: ClientSessionDeps) {
    this.#principal = principal;
    this.#deps = deps;
    this.#own = principal.narrow === undefined ? undefined : new Set();
    this.#log = deps.log.child({ owner: principal.ownerName });
    this.#results = new TurnBatch((items) => this.#flushResults(items));
    this.#socket = new FrameSocket({
      ...upgraded,
      kinds: FRAMES_DOWN.service,
      log: this.#log,
      onFrame: (frame) => this.#onFrame(frame),
      onDrain: () => this.#flushResults([]),
      onClose: () => this.#onClose(),
    });
    // The connection holds no longer than the credential it was opened with.
    const leftMs = Math.min(principal.expiresAtMs - deps.clock.nowMs(), 0x7fffffff);
    this.#timers = [
      setTimeout(
        () => this.#open || this.#socket.end("LINK_SILENT", { seconds: 10 }),
        limits.HELLO_TIMEOUT_MS,
      ),
      setTimeout(() => this.#socket.end("TOKEN_EXPIRED"), Math.max(0, leftMs)),
    ];
    for (const timer of this.#timers) timer.unref();
  }

  /** Results wait here for the client to read: more of them are to wait in PostgreSQL. */
  get crowded(): boolean {
    return this.#pending.length > 0 || this.#socket.paused;
  }

  get closed(): boolean {
    return this.#socket.closed;
  }

  get ownerKey(): IdKey {
    return this.#principal.ownerKey;
  }

  get keyId(): string {
    return this.#principal.keyId;
  }

  revoked(): void {
    this.#socket.end("CREDENTIAL_REVOKED");
  }

  push(item: ResultItem): void {
    if (this.#own !== undefined && !this.#own.delete(item.key)) return;
    this.#results.add(item);
  }

  started(keys: readonly IdKey[]): void {
    const told = this.#own === undefined ? keys : keys.filter((key) => this.#own!.has(key));
    if (told.length > 0) this.#socket.send({ t: "progress", ids: keysToColumn(told), kind: "started" });
  }

  progressed(key: IdKey, { done, total }: TaskProgress): void {
    // A client that does not read catches up with the next word.
    if (!this.#tellsProgress || this.crowded || this.#own?.has(key) === false) return;
    this.#socket.send({
      t: "progress",
      ids: keysToColumn([key]),
      kind: "progress",
      done,
      ...(total !== undefined && { total }),
    });
  }

  drain(): void {
    this.#socket.end("DRAINING");
  }

  #onFrame(frame: ClientFrame): void {
    if (!this.#open) {
      if (frame.t === "hello") this.#onHello(frame);
      else this.#socket.end("FRAME_INVALID", { detail: `${frame.t} before hello` });
      return;
    }
    switch (frame.t) {
      case "tasks":
        this.#onTasks(frame);
        return;
      case "mark": {
        const released = this.#outbox.mark(frame);
        if ("bad" in released) this.#socket.end("FRAME_INVALID", { detail: released.bad });
        return;
      }
      case "watch":
        void this.#onWatch(frame.group, frame.ids);
        return;
      case "cancel":
        void this.#onCancel(columnToKeys(frame.ids), frame.why === "unbegun" ? "unbegun" : undefined);
        return;
      case "hello":
        this.#socket.end("FRAME_INVALID", { detail: "a second hello" });
        return;
      case "problem":
        this.#log.info({ code: frame.code, problem: frame.message }, "a client complains");
        return;
      case "bye":
      case "ping":
      case "pong":
        return;
    }
  }

  #onHello(hello: HelloFrame): void {
    const agreed = agreeOrRefuse(this.#socket, hello);
    if (!agreed) return;
    this.#open = true;
    this.#tellsProgress = agreed.caps.includes("progress");
    sendWelcome(this.#socket, agreed);
    this.#sendCredit(WINDOW_TASKS, WINDOW_BYTES);
  }

  #onTasks(frame: TasksFrame): void {
    const wrong = misplaced(frame.first, this.#inbox.received);
    if (wrong !== undefined) {
      this.#socket.end("FRAME_INVALID", { detail: wrong });
      return;
    }
    const from = this.#inbox.received + 1;
    const span = this.#inbox.receive(frame.n);
    this.#receivedBytes += frame.args.length;
    this.#openBytes += frame.args.length;
    const { durable } = this.#inbox.mark;
    if (this.#inbox.received - durable > WINDOW_TASKS) {
      this.#socket.end("CREDIT_EXCEEDED", {
        detail: `${this.#inbox.received - durable} tasks are on their way`,
      });
      return;
    }
    // One task may overdraw (P9), and none is larger than a frame.
    if (this.#openBytes > WINDOW_BYTES + limits.MAX_FRAME_BYTES) {
      this.#socket.end("CREDIT_EXCEEDED", {
        detail: `${this.#openBytes} bytes of arguments are on their way`,
      });
      return;
    }
    if (!frame.endpoint || !frame.group) {
      this.#socket.end("FRAME_INVALID", { detail: "tasks from a client need endpoint and group" });
      return;
    }
    this.#submit(frame, from).then(
      () => this.#settled(span, frame),
      (error: unknown) => {
        const known =
          toKnownError(error) ?? new FarloomError("INTERNAL", { reference: "link" }, { cause: error });
        if (known.code === "INTERNAL") this.#log.error({ err: error }, "a submission failed");
        this.#refuse(from, frame.n, known);
        this.#settled(span, frame);
      },
    );
  }

  /** Checks a frame and gives it to intake. Not async until it must be: a task in the caches is on its way at once. */
  #submit(frame: TasksFrame, from: number): Promise<unknown> {
    try {
      requireFrame(this.#principal, "tasks", { endpointKey: keyAt(frame.endpoint!) });
      requireGroup(this.#principal, keyAt(frame.group!));
      for (const options of Object.values(frame.opts ?? {})) requireNesting(this.#principal, options);
    } catch (refusal) {
      return Promise.reject(refusal);
    }
    const { ownerKey, nested } = this.#principal;
    const endpointKey = keyAt(frame.endpoint!);
    const groupKey = keyAt(frame.group!);
    const earlier = this.#lookups.get(endpointKey);
    const endpoint = this.#deps.endpoints.peek(ownerKey, endpointKey);
    const fns = frame.fns.map((digest) => this.#deps.functions.peekByDigest(ownerKey, digest));
    if (
      !nested &&
      !earlier &&
      endpoint &&
      this.#deps.groups.isKnown(ownerKey, groupKey) &&
      fns.every((fn) => fn !== undefined && this.#deps.endpoints.suits(endpointKey, fn) && !wantsSecrets(fn))
    ) {
      return this.#take(frame, from, endpoint, groupKey, fns as FunctionRecord[]);
    }
    const found = this.#lookUp(frame, endpointKey, groupKey);
    // What follows this frame to the same endpoint waits for it, so that tasks keep their order.
    const turn = Promise.allSettled([found, earlier]).then(() => undefined);
    this.#lookups.set(endpointKey, turn);
    return turn.then(async () => {
      if (this.#lookups.get(endpointKey) === turn) this.#lookups.delete(endpointKey);
      const { endpoint: to, fns: records } = await found;
      await this.#take(frame, from, to, groupKey, records);
    });
  }

  /** What the caches do not have. */
  async #lookUp(
    frame: TasksFrame,
    endpointKey: IdKey,
    groupKey: IdKey,
  ): Promise<{ endpoint: EndpointGrant; fns: FunctionRecord[] }> {
    const { ownerKey, ownerId, nested } = this.#principal;
    if (nested) await this.#deps.nested.requireOpen(nested);
    const endpoint =
      this.#deps.endpoints.peek(ownerKey, endpointKey) ??
      (await this.#deps.endpoints.load(ownerKey, endpointKey));
    if (!endpoint) throw new FarloomError("ENDPOINT_NOT_FOUND", { id: keyToUuid(endpointKey) });
    const fns: FunctionRecord[] = [];
    for (const digest of frame.fns) {
      const record = await this.#deps.functions.byDigest(ownerId, digest);
      if (!record) throw new FarloomError("FUNCTION_NOT_FOUND", { id: digest.toString("hex") });
      fns.push(record);
    }
    if (fns.some((fn) => !this.#deps.endpoints.suits(endpointKey, fn))) {
      for (const fn of fns) requireFrame(this.#principal, "tasks", { endpoint, fn });
      await this.#deps.endpoints.requireSuiting(endpoint, fns);
    }
    if (fns.some(wantsSecrets)) await this.#agreeSecrets(frame, endpoint, fns);
    await this.#deps.groups.ensure(ownerKey, groupKey);
    return { endpoint, fns };
  }

  /** What each call is given of its caller's secrets, by name, in its options. */
  async #agreeSecrets(frame: TasksFrame, endpoint: EndpointGrant, fns: FunctionRecord[]): Promise<void> {
    for (const fn of fns) requireFrame(this.#principal, "tasks", { endpoint, fn });
    const calls = Array.from({ length: frame.n }, (_, i) => {
      return { fn: fns[functionIndexOf(frame, i)]!, options: frame.opts?.[i] };
    });
    const agreed = await this.#deps.secretUse.agree(this.#principal, endpoint, calls);
    frame.opts = {};
    for (const [i, options] of agreed.entries()) if (options !== undefined) frame.opts[i] = options;
  }

  async #take(
    frame: TasksFrame,
    from: number,
    endpoint: EndpointGrant,
    groupKey: IdKey,
    fns: FunctionRecord[],
  ): Promise<void> {
    for (const fn of fns) requireFrame(this.#principal, "tasks", { endpoint, fn });
    const entries: TaskEntry[] = [];
    for (let i = 0; i < frame.n; i++) {
      const start = startOf(frame.ends, i);
      const end = endOf(frame.ends, i);
      const codec = byteOf(frame.codecs, i);
      const bad = checkArguments(codec, end - start);
      if (bad) {
        this.#refuse(from + i, 1, bad);
        continue;
      }
      entries.push(
        new TaskEntry({
          key: keyAt(frame.ids, 16 * i),
          ownerKey: this.#principal.ownerKey,
          endpointKey: endpoint.key,
          groupKey,
          fn: fns[functionIndexOf(frame, i)]!,
          source: frame.args,
          start,
          end,
          seals: frame.seals,
          sealAt: SEAL_BYTES * i,
          codec,
          attempt: 1,
          options: frame.opts?.[i],
        }),
      );
    }
    if (entries.length === 0) return;
    this.#roomForOwn(entries.length);
    const { taken, repeated } = await this.#deps.intake.take(entries, {
      again: frame.again === 1,
      knownMs: this.#socket.knownMs,
    });
    if (this.#own !== undefined) await this.#hearOf(entries, repeated);
    if (taken.length === 0) return;
    const places = new Map(columnToKeys(frame.ids).map((key, i) => [key, from + i]));
    for (const key of taken) {
      this.#refuse(places.get(key)!, 1, new FarloomError("TASK_ID_TAKEN", { id: keyToUuid(key) }));
    }
  }

  /** A narrow key hears of what is new here, and of what was there before only as far as the key is for it. */
  async #hearOf(entries: readonly TaskEntry[], repeated: boolean): Promise<void> {
    const keys = entries.map((entry) => entry.key);
    const own = repeated ? await this.#deps.reach.within(this.#principal, keys) : keys;
    for (const key of own) this.#own!.add(key);
    // What has ended meanwhile was told to nobody here.
    if (repeated) await this.#deps.deliver.replay(this, own);
  }

  /** @throws FarloomError OVERLOADED where a narrow key's connection waits for too many tasks. */
  #roomForOwn(n: number): void {
    const size = this.#own?.size ?? 0;
    if (size + n > MAX_OWN_TASKS)
      throw new FarloomError("OVERLOADED", { detail: `this connection waits for ${size} tasks` });
  }

  #refuse(from: number, n: number, error: FarloomError): void {
    this.#socket.send({
      t: "refused",
      from,
      n,
      code: error.code,
      message: error.message,
      ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
    });
  }

  #settled(span: Span, frame: TasksFrame): void {
    this.#openBytes -= frame.args.length;
    if (!this.#inbox.complete(span) || this.#markScheduled) return;
    this.#markScheduled = true;
    setImmediate(() => {
      this.#markScheduled = false;
      const mark = this.#inbox.mark;
      crashPoint("service.intake.before-durable");
      this.#socket.send({ t: "mark", accepted: mark.accepted, durable: mark.durable });
      crashPoint("service.intake.after-durable");
      this.#sendCredit(mark.durable + WINDOW_TASKS, this.#receivedBytes - this.#openBytes + WINDOW_BYTES);
    });
  }

  /** Only when it has moved by a good part of the window: the client has the rest of it. */
  #sendCredit(tasks: number, bytes: number): void {
    const credit = this.#credit;
    if (tasks - credit.tasks < WINDOW_TASKS / 4 && bytes - credit.bytes < WINDOW_BYTES / 4) return;
    credit.tasks = tasks;
    credit.bytes = bytes;
    this.#socket.send({ t: "credit", tasks, bytes });
  }

  async #onWatch(group: Buffer, ids: Buffer | undefined): Promise<void> {
    const groupKey = keyAt(group);
    try {
      requireFrame(this.#principal, "watch");
      const { nested } = this.#principal;
      requireGroup(this.#principal, groupKey);
      if (nested) await this.#deps.nested.requireOpen(nested);
      const keys = ids && (await this.#deps.reach.within(this.#principal, columnToKeys(ids)));
      if (keys && this.#own) {
        this.#roomForOwn(keys.length);
        for (const key of keys) this.#own.add(key);
      }
      // In its next session the client watches only what it still waits for.
      if (!this.#groups.has(groupKey) && this.#groups.size + this.#watching >= MAX_WATCHED_GROUPS) {
        this.#socket.end("TOO_MANY_WATCHES", { limit: MAX_WATCHED_GROUPS });
        return;
      }
      this.#watching++;
      await this.#deps.groups.ensure(this.ownerKey, groupKey).finally(() => this.#watching--);
      if (this.#socket.closed) return;
      if (!this.#groups.has(groupKey)) {
        this.#groups.add(groupKey);
        this.#deps.deliver.watch(groupKey, this);
      }
      if (keys && keys.length > 0) {
        this.#deps.deliver.trails.unknown(groupKey);
        await this.#deps.deliver.replay(this, keys);
      }
    } catch (error) {
      this.#problem(error);
    }
  }

  async #onCancel(keys: IdKey[], why: "unbegun" | undefined): Promise<void> {
    const { audit } = this.#deps;
    try {
      audit.requireRoom();
      requireFrame(this.#principal, "cancel");
      const { nested } = this.#principal;
      if (nested) await this.#deps.nested.requireOpen(nested);
      const own = await this.#deps.reach.within(this.#principal, keys);
      this.started(await this.#deps.dispatch.cancelOwned(this.ownerKey, own, why));
      audit.cancelled(own.length, undefined);
    } catch (error) {
      if (error instanceof FarloomError && error.status < 500) audit.cancelled(keys.length, error.code);
      this.#problem(error);
    }
  }

  /** What is not the client's fault passes: it asks again. */
  #problem(error: unknown): void {
    if (!(error instanceof FarloomError)) this.#log.error({ err: error }, "a frame could not be carried out");
    const { code, message } = error instanceof FarloomError ? error : new FarloomError("NOT_READY");
    this.#socket.send({ t: "problem", code, message });
  }

  #flushResults(items: ResultItem[]): void {
    if (this.#socket.closed) return;
    const waiting = this.#pending.length === 0 ? items : this.#pending.concat(items);
    let at = 0;
    while (at < waiting.length && !this.#socket.paused) {
      const n = batchLength(waiting.length, at, (i) => resultBytes(waiting[i]!));
      crashPoint("service.deliver.before-send");
      this.#socket.send({ ...buildResults(waiting, at, n), first: this.#outbox.sent + 1 });
      crashPoint("service.deliver.after-send");
      for (let i = 0; i < n; i++) this.#outbox.push(null);
      at += n;
    }
    this.#pending = at === 0 ? waiting : waiting.slice(at);
    this.#pendingBytes = this.#pending.reduce((sum, item) => sum + item.end - item.start, 0);
    if (this.#pending.length > MAX_PENDING_RESULTS || this.#pendingBytes > MAX_PENDING_BYTES) {
      this.#socket.end("LINK_SLOW", { detail: `${this.#pending.length} results wait` });
    }
  }

  #onClose(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const groupKey of this.#groups) this.#deps.deliver.unwatch(groupKey, this);
    this.#pending = [];
    this.#deps.onClose(this);
  }
}

/** About how many bytes of a frame a result takes, what is told of a failure included. */
function resultBytes({ start, end, detail }: ResultItem): number {
  if (detail === undefined) return end - start;
  const { error, stdout, stderr } = detail;
  const texts = [error?.message, error?.traceback, error?.data, stdout, stderr];
  // UTF-8 takes at most three bytes for a UTF-16 unit.
  return end - start + 3 * texts.reduce((sum, text) => sum + (text?.length ?? 0), 0);
}

function checkArguments(codec: number, sizeBytes: number): FarloomError | undefined {
  if (codecName(codec) === undefined)
    return new FarloomError("ARGUMENTS_INVALID", { detail: `there is no codec ${codec}` });
  if (codec & CODEC_REFERENCE) {
    return sizeBytes === REFERENCE_BYTES
      ? undefined
      : new FarloomError("ARGUMENTS_INVALID", { detail: `a reference has ${REFERENCE_BYTES} bytes` });
  }
  return sizeBytes <= limits.MAX_INLINE_BYTES
    ? undefined
    : new FarloomError("ARGUMENTS_TOO_LARGE", { size: sizeBytes, limit: limits.MAX_INLINE_BYTES });
}
