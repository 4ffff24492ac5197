/**
 * A service for tests: the client's side of PROTOCOL.md over real sockets, with a memory instead of PostgreSQL, a
 * function of the test instead of endpoints, and switches for what a test wants to go wrong.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  buildResults,
  byteOf,
  CODEC_REFERENCE,
  CODECS,
  columnToKeys,
  decodeFrame,
  decodeReference,
  encodeFrame,
  encodeReference,
  endOf,
  FRAMES_DOWN,
  type Frame,
  functionIndexOf,
  type IdKey,
  keyAt,
  limits,
  type ResultItem,
  startOf,
  type TaskOptions,
  type TasksFrame,
  TERMINAL_STATES,
} from "@farloom/protocol";
import { type WebSocket, WebSocketServer } from "ws";

/** A task as the fake received it. */
export interface FakeTask {
  readonly key: IdKey;
  readonly group: string;
  readonly endpoint: string;
  readonly digest: string;
  readonly options: TaskOptions | undefined;
  readonly codec: number;
  readonly bytes: Buffer;
}

export type FakeOutcome = Pick<ResultItem, "state" | "reason" | "codec" | "detail"> & {
  readonly bytes: Buffer;
};

export interface FakeServiceOptions {
  /** What a task's outcome is; undefined leaves it open (finish it with `finish`). Default: echoes the first argument. */
  run?: (task: FakeTask) => FakeOutcome | undefined;
  /** Tasks beyond those durable that a session may have received. Default: 10,000. */
  creditTasks?: number;
  /** Called with each batch; a refusal is sent instead of taking it. */
  refuse?: (frame: TasksFrame) => { code: string; message: string; retryAfterMs?: number } | undefined;
  /** Commits, but says nothing of it: no marks, no results. */
  mute?: boolean;
  /** Takes frames and forgets them, as if it died before the commit. */
  deaf?: boolean;
  /** Status for the upgrade instead of a session. */
  rejectUpgrade?: { status: number; body: object; retryAfter?: string } | undefined;
  /** The seal over a result, as a worker makes it. Default: none, like a service of before seals. */
  seal?: (key: IdKey, bytes: Buffer) => Buffer | undefined;
  /** Answers no pings. */
  silent?: boolean;
  heartbeatMs?: number;
  deadAfterMs?: number;
}

interface Session {
  readonly socket: WebSocket;
  readonly watched: Set<string>;
  received: number;
  sentResults: number;
  creditTasks: number;
  creditBytes: number;
  bytesReceived: number;
}

export class FakeService {
  readonly options: FakeServiceOptions;
  /** All frames, in the order of their coming. */
  readonly frames: Frame[] = [];
  readonly committed = new Map<IdKey, FakeTask>();
  readonly outcomes = new Map<IdKey, FakeOutcome>();
  /** How often each id was submitted. */
  readonly submissions = new Map<IdKey, number>();
  readonly payloads = new Map<string, Buffer>();
  readonly requests: { method: string; url: string; authorization: string | undefined }[] = [];
  /** Positions in excess of credit: a broken client. */
  creditOverruns = 0;
  marks = 0;
  sessions = 0;
  /** Answers for REST beyond the built-in ones. */
  rest: (
    method: string,
    url: string,
    body: Buffer,
  ) => { status: number; body?: unknown; headers?: Record<string, string> } | undefined = () => undefined;
  readonly #server: Server;
  readonly #sockets: WebSocketServer;
  readonly #open = new Set<Session>();

  constructor(options: FakeServiceOptions) {
    this.options = options;
    this.#sockets = new WebSocketServer({
      noServer: true,
      maxPayload: limits.MAX_FRAME_BYTES,
      perMessageDeflate: false,
    });
    this.#server = createServer((request, response) => void this.#request(request, response));
    this.#server.on("upgrade", (request, socket, head) => {
      const rejection = this.options.rejectUpgrade;
      if (rejection) {
        const body = JSON.stringify(rejection.body);
        const retry = rejection.retryAfter ? `Retry-After: ${rejection.retryAfter}\r\n` : "";
        socket.end(
          `HTTP/1.1 ${rejection.status} No\r\nContent-Type: application/problem+json\r\n${retry}Content-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
        );
      } else this.#sockets.handleUpgrade(request, socket, head, (ws) => this.#session(ws));
    });
  }

  static async start(options: FakeServiceOptions = {}, port = 0): Promise<FakeService> {
    const fake = new FakeService(options);
    await new Promise<void>((resolve) => fake.#server.listen(port, "127.0.0.1", resolve));
    return fake;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }
  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }
  get openSessions(): number {
    return this.#open.size;
  }

  framesOf<K extends Frame["t"]>(t: K): Extract<Frame, { t: K }>[] {
    return this.frames.filter((f): f is Extract<Frame, { t: K }> => f.t === t);
  }

  /** Breaks every connection without a word. */
  cut(): void {
    for (const { socket } of this.#open) socket.terminate();
    this.#open.clear();
  }

  /** Sends a frame, right or wrong, to all sessions. */
  sendAll(frame: Frame | Buffer): void {
    for (const { socket } of this.#open) socket.send(Buffer.isBuffer(frame) ? frame : encodeFrame(frame));
  }

  /** Ends an open task and tells whoever watches its group. */
  finish(key: IdKey, outcome: FakeOutcome): void {
    if (!this.outcomes.has(key)) this.outcomes.set(key, outcome);
    const { group } = this.committed.get(key)!;
    for (const session of this.#open) if (session.watched.has(group)) this.#sendResults(session, [key]);
  }

  /** More credit for every session. */
  grant(tasks: number): void {
    for (const session of this.#open) {
      session.creditTasks += tasks;
      this.#send(session, { t: "credit", tasks: session.creditTasks, bytes: session.creditBytes });
    }
  }

  async close(): Promise<void> {
    this.cut();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #send(session: Session, frame: Frame): void {
    if (session.socket.readyState === session.socket.OPEN) session.socket.send(encodeFrame(frame));
  }

  #session(socket: WebSocket): void {
    this.sessions++;
    const session: Session = {
      socket,
      watched: new Set(),
      received: 0,
      sentResults: 0,
      creditTasks: this.options.creditTasks ?? 10_000,
      creditBytes: 64 * 1024 * 1024,
      bytesReceived: 0,
    };
    this.#open.add(session);
    socket.on("close", () => this.#open.delete(session));
    socket.on("error", () => {});
    socket.on("message", (data: Buffer) => {
      const decoded = decodeFrame(data, FRAMES_DOWN.service);
      if (!decoded.ok) throw new Error(`the client sent what it must not: ${decoded.reason}`);
      this.frames.push(decoded.frame);
      this.#frame(session, decoded.frame);
    });
  }

  #frame(session: Session, frame: Frame): void {
    switch (frame.t) {
      case "hello":
        this.#send(session, {
          t: "welcome",
          version: 1,
          caps: ["ref", "cancel-running", "progress"],
          session: `s${this.sessions}`,
          heartbeatMs: this.options.heartbeatMs ?? 5000,
          deadAfterMs: this.options.deadAfterMs ?? 12_000,
          maxFrameBytes: limits.MAX_FRAME_BYTES,
          software: "fake",
        });
        this.#send(session, { t: "credit", tasks: session.creditTasks, bytes: session.creditBytes });
        return;
      case "ping":
        if (this.options.silent) return;
        this.#send(session, { t: "pong", n: frame.n });
        return;
      case "watch": {
        const group = frame.group.toString("latin1");
        session.watched.add(group);
        const keys = frame.ids ? columnToKeys(frame.ids) : [];
        const known = keys.filter((key) => this.outcomes.has(key));
        if (known.length > 0 && !this.options.mute) this.#sendResults(session, known);
        return;
      }
      case "cancel":
        for (const key of columnToKeys(frame.ids)) {
          if (this.committed.has(key) && !this.outcomes.has(key)) this.finish(key, cancelled());
        }
        return;
      case "mark":
        this.marks++;
        if (frame.accepted > session.sentResults) throw new Error("a mark beyond what was sent");
        return;
      case "tasks":
        this.#tasks(session, frame);
        return;
    }
  }

  #tasks(session: Session, frame: TasksFrame): void {
    const from = session.received + 1;
    session.received += frame.n;
    session.bytesReceived += frame.args.length;
    if (session.received > session.creditTasks) this.creditOverruns++;
    if (this.options.deaf) return;
    const refusal = this.options.refuse?.(frame);
    const mark = { t: "mark", accepted: session.received, durable: session.received } as const;
    if (refusal) {
      this.#send(session, { t: "refused", from, n: frame.n, ...refusal });
      this.#send(session, mark);
      return;
    }
    const done: IdKey[] = [];
    for (let i = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      this.submissions.set(key, (this.submissions.get(key) ?? 0) + 1);
      if (this.committed.has(key)) continue;
      const task: FakeTask = {
        key,
        group: frame.group!.toString("latin1"),
        endpoint: frame.endpoint!.toString("hex"),
        digest: frame.fns[functionIndexOf(frame, i)]!.toString("hex"),
        options: frame.opts?.[i],
        codec: byteOf(frame.codecs, i),
        bytes: frame.args.subarray(startOf(frame.ends, i), endOf(frame.ends, i)),
      };
      this.committed.set(key, task);
      const outcome = (this.options.run ?? ((t) => this.echo(t)))(task);
      if (outcome === undefined) continue;
      this.outcomes.set(key, outcome);
      done.push(key);
    }
    if (this.options.mute) return;
    this.#send(session, mark);
    session.creditTasks += this.options.creditTasks === undefined ? frame.n : 0;
    session.creditBytes += frame.args.length;
    this.#send(session, { t: "credit", tasks: session.creditTasks, bytes: session.creditBytes });
    if (done.length > 0 && session.watched.has(frame.group!.toString("latin1")))
      this.#sendResults(session, done);
  }

  /** The first argument comes back; what is large comes back as a payload reference. */
  echo(task: FakeTask): FakeOutcome {
    const bytes =
      task.codec & CODEC_REFERENCE
        ? this.payloads.get(decodeReference(task.bytes)!.digest.toString("hex"))!
        : task.bytes;
    const [args] = JSON.parse(bytes.toString()) as [unknown[]];
    const result = Buffer.from(JSON.stringify(args[0] ?? null));
    if (result.length <= limits.MAX_INLINE_BYTES) return succeeded(result);
    const digest = createHash("sha256").update(result).digest();
    this.payloads.set(digest.toString("hex"), result);
    return { ...succeeded(encodeReference(digest, result.length)), codec: CODECS.json | CODEC_REFERENCE };
  }

  #sendResults(session: Session, keys: readonly IdKey[]): void {
    for (let from = 0; from < keys.length; from += limits.MAX_BATCH_ITEMS) {
      const items = keys.slice(from, from + limits.MAX_BATCH_ITEMS).map((key): ResultItem => {
        const { bytes, ...rest } = this.outcomes.get(key)!;
        const times = { queueUs: 1, runUs: 2, cpuUs: 3, peakKb: 4 };
        const seals = this.options.seal?.(key, bytes);
        return { key, source: bytes, start: 0, end: bytes.length, seals, attempt: 1, ...times, ...rest };
      });
      session.sentResults += items.length;
      this.#send(session, buildResults(items, 0, items.length));
    }
  }

  async #request(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const method = request.method ?? "GET";
    const url = request.url ?? "/";
    this.requests.push({ method, url, authorization: request.headers.authorization });
    const answer = this.rest(method, url, body) ?? this.#builtIn(method, url, body);
    const isBytes = Buffer.isBuffer(answer.body);
    const out =
      answer.body === undefined
        ? Buffer.alloc(0)
        : isBytes
          ? (answer.body as Buffer)
          : Buffer.from(JSON.stringify(answer.body));
    const type = isBytes
      ? "application/octet-stream"
      : answer.status >= 400
        ? "application/problem+json"
        : "application/json";
    response.writeHead(answer.status, {
      "content-type": type,
      "content-length": out.length,
      ...answer.headers,
    });
    response.end(method === "HEAD" ? undefined : out);
  }

  #builtIn(
    method: string,
    url: string,
    body: Buffer,
  ): { status: number; body?: unknown; headers?: Record<string, string> } {
    const path = decodeURIComponent(url.split("?")[0]!);
    const payload = /^\/v1\/payloads\/([0-9a-f]{64})$/.exec(path)?.[1];
    if (payload) {
      if (method === "PUT") {
        this.payloads.set(payload, body);
        return { status: 201 };
      }
      const stored = this.payloads.get(payload);
      return stored ? { status: 200, body: stored } : { status: 404 };
    }
    if (method === "POST" && path === "/v1/functions") {
      const { name } = JSON.parse(body.toString()) as { name: string };
      const id = createHash("sha256").update(body).digest("hex");
      return { status: 201, body: { id, name, version: 1, ref: `tester/${name}@1` } };
    }
    const fn = /^\/v1\/functions\/(.+)$/.exec(path)?.[1];
    if (method === "GET" && fn) {
      const id = createHash("sha256").update(fn).digest("hex");
      return { status: 200, body: { id, name: fn, version: 1, ref: `tester/${fn}@1` } };
    }
    const endpoint = /^\/v1\/endpoints\/(.+)$/.exec(path)?.[1];
    if (method === "GET" && endpoint) {
      const hex = createHash("md5").update(endpoint).digest("hex");
      return {
        status: 200,
        body: { id: hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"), name: endpoint },
      };
    }
    return {
      status: 404,
      body: { code: "ROUTE_NOT_FOUND", detail: `There is no ${method} ${path}.`, status: 404 },
    };
  }
}

export function succeeded(bytes: Buffer): FakeOutcome {
  return { state: TERMINAL_STATES.SUCCEEDED, reason: 0, codec: CODECS.json, detail: undefined, bytes };
}

export function cancelled(): FakeOutcome {
  return {
    state: TERMINAL_STATES.CANCELLED,
    reason: 12,
    codec: CODECS.json,
    detail: undefined,
    bytes: Buffer.alloc(0),
  };
}
