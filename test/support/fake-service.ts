/**
 * A web service as an agent sees it: HTTP and a WebSocket on a real port, a real check of the signature, and
 * every frame kept for the test to look at. It holds tasks within credit and acknowledges results as told.
 */
import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  buildTasks,
  byteOf,
  CODECS,
  decodeFrame,
  encodeFrame,
  FRAMES_UP,
  type Frame,
  type FunctionDefinition,
  fenceOf,
  functionDigest,
  type HelloFrame,
  type IdKey,
  keyAt,
  keysToColumn,
  limits,
  type OutcomeDetail,
  TaskIdAllocator,
  type TaskItem,
  type TaskOptions,
  u32Of,
} from "@farloom/protocol";
import { type WebSocket, WebSocketServer } from "ws";

/** One result as the service got it. */
export interface GotResult {
  readonly key: IdKey;
  readonly data: Buffer;
  readonly codec: number;
  readonly state: number;
  readonly reason: number;
  readonly attempt: number;
  readonly fence: number;
  readonly seal: Buffer | undefined;
  readonly held: boolean;
  readonly detail: OutcomeDetail | undefined;
}

export interface TaskToSend {
  readonly key?: IdKey;
  readonly args?: Buffer;
  readonly codec?: number;
  readonly attempt?: number;
  readonly fence?: number;
  readonly seals?: Buffer;
  readonly options?: TaskOptions;
  readonly digest?: Buffer;
}

/** A definition of a source function, with its true digest. */
export function defineFunction(fields: Partial<FunctionDefinition> = {}): FunctionDefinition {
  const def = {
    runtime: "python" as const,
    format: "source" as const,
    code: Buffer.from("def f(*args): return list(args)\n"),
    entry: "f",
    mode: "at_most_once" as const,
    timeoutMs: 0,
    retries: 0,
    backoffMs: 0,
    env: {},
    resources: {},
    ...fields,
  };
  return { ...def, digest: functionDigest(def) };
}

export class FakeService {
  readonly endpointId = "0b6a3f0e-1111-4222-8333-444455556666";
  readonly ids = new TaskIdAllocator();
  /** Every hello, oldest first. */
  readonly hellos: HelloFrame[] = [];
  /** Every frame of every connection, oldest first. */
  readonly frames: Frame[] = [];
  readonly results: GotResult[] = [];
  readonly payloads = new Map<string, Buffer>();
  /** Whether results are acknowledged as they come. */
  acknowledges = true;
  /** Result ids of tasks that "were never committed" (P14). */
  readonly unknownKeys = new Set<IdKey>();
  /** So many links more are cut at their hello, without a word. */
  cutsAtHello = 0;
  /** Refuses links with this, where set. */
  refuse: { code: string; message: string; retryAfterMs?: number } | undefined;
  /** What it can, of what an agent can; default: all of that. */
  caps: readonly string[] | undefined;
  /** Answers an agent that asks for definitions and signatures. */
  onNeed: (functions: readonly Buffer[]) => void = () => undefined;
  def = defineFunction();
  /** What agents call it, where something stands before it. */
  publicUrl: string | undefined;
  publicKey: Buffer | undefined;
  readonly #server: Server;
  readonly #wss = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: limits.MAX_FRAME_BYTES,
  });
  readonly #nonces = new Set<string>();
  readonly #tokens = new Set<string>();
  /** Each opens one connection. */
  readonly #linkTokens = new Set<string>();
  #socket: WebSocket | undefined;
  #functionsSent = new Set<string>();
  #resultsReceived = 0;
  #sentTasks = 0;
  #sentBytes = 0;
  #credit = { tasks: 0, bytes: 0 };
  #waiters: (() => void)[] = [];

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(port = 0): Promise<FakeService> {
    const server = createServer();
    const service = new FakeService(server);
    server.on("request", (req, res) => void service.#request(req, res));
    server.on("upgrade", (req, socket, head) => service.#upgrade(req, socket, head));
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    return service;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }
  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }
  get connected(): boolean {
    return this.#socket !== undefined;
  }
  get roomTasks(): number {
    return this.#credit.tasks - this.#sentTasks;
  }
  get creditFrames(): number {
    return this.frames.filter((f) => f.t === "credit").length;
  }

  /** Resolves when `condition` holds; it is looked at after every frame and connection. */
  async until(condition: () => boolean, what = condition.toString(), withinMs = 10_000): Promise<void> {
    const deadline = performance.now() + withinMs;
    while (!condition()) {
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`not within ${withinMs} ms: ${what}`);
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        new Promise<void>((resolve) => this.#waiters.push(resolve)),
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, Math.min(left, 50));
        }),
      ]);
      clearTimeout(timer);
    }
  }

  /** Sends tasks in one frame, with the definitions that this session has not had. Returns their keys. */
  sendTasks(tasks: readonly TaskToSend[], { withFunctions = true } = {}): IdKey[] {
    const keys: IdKey[] = [];
    const items: (TaskItem & { digest: Buffer })[] = tasks.map((task) => {
      const source = task.args ?? Buffer.from("[[1],{}]");
      const key = task.key ?? this.ids.next();
      keys.push(key);
      return {
        key,
        codec: task.codec ?? CODECS.json,
        attempt: task.attempt ?? 1,
        fence: task.fence,
        seals: task.seals,
        options: task.options,
        source,
        start: 0,
        end: source.length,
        digest: task.digest ?? this.def.digest,
      };
    });
    if (withFunctions) this.sendFunction(this.def);
    const frame = buildTasks(items, 0, items.length, (item) => item.digest);
    this.#sentTasks += frame.n;
    this.#sentBytes += frame.args.length;
    this.send(frame);
    return keys;
  }

  sendFunction(def: FunctionDefinition): void {
    const hex = def.digest.toString("hex");
    if (this.#functionsSent.has(hex)) return;
    this.#functionsSent.add(hex);
    this.send({ t: "functions", defs: [def] });
  }

  send(frame: Frame): void {
    this.#socket?.send(encodeFrame(frame));
  }

  sendRaw(bytes: Buffer | string): void {
    this.#socket?.send(bytes);
  }

  /** Acknowledges every result of this session. */
  markAll(): void {
    this.send({ t: "mark", accepted: this.#resultsReceived, durable: this.#resultsReceived });
  }

  /** Cuts the connection without a word. */
  cut(): void {
    this.#socket?.terminate();
    this.#socket = undefined;
  }

  resultOf(key: IdKey): GotResult | undefined {
    return this.results.find((result) => result.key === key);
  }

  async close(): Promise<void> {
    for (const ws of this.#wss.clients) ws.terminate();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  // ─── what the agent sees ───────────────────────────────────────────────────────────────────────────────

  async #request(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const body = await readBody(req);
    const json = (status: number, value: unknown): void => {
      res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    };
    const path = req.url ?? "";
    if (path === "/health/ready") return json(200, { ready: true });
    if (path === "/v1/endpoints/enroll") {
      const { code, publicKey } = JSON.parse(body.toString()) as { code: string; publicKey: string };
      if (code !== "good-code") {
        return json(401, {
          error: { code: "ENROLMENT_CODE_INVALID", message: "The enrolment code is unknown." },
        });
      }
      this.publicKey = Buffer.from(publicKey, "base64");
      return json(201, { endpointId: this.endpointId, name: "cluster", owner: "ada" });
    }
    if (path === `/v1/endpoints/${this.endpointId}/challenge`) {
      const nonce = randomBytes(32).toString("base64url");
      this.#nonces.add(nonce);
      return json(200, { nonce });
    }
    if (path.startsWith(`/v1/endpoints/${this.endpointId}/session?for=`)) {
      const { nonce, signature } = JSON.parse(body.toString()) as { nonce: string; signature: string };
      const text = `farloom-agent-v1\n${new URL(this.publicUrl ?? this.url).host}\n${this.endpointId}\n${nonce}`;
      const key = createPublicKey({
        key: { kty: "OKP", crv: "Ed25519", x: this.publicKey!.toString("base64url") },
        format: "jwk",
      });
      const good =
        this.#nonces.delete(nonce) &&
        verify(null, Buffer.from(text), key, Buffer.from(signature, "base64url"));
      if (!good) return json(401, { error: { code: "SIGNATURE_INVALID", message: "no" } });
      const token = randomBytes(16).toString("hex");
      if (path.endsWith("=link")) this.#linkTokens.add(token);
      this.#tokens.add(token);
      return json(200, { token, expiresInMs: 60_000 });
    }
    const payload = /^\/v1\/payloads\/([0-9a-f]{64})$/.exec(path)?.[1];
    if (payload !== undefined) {
      if (!this.#authorised(req)) return json(401, { error: { code: "UNAUTHENTICATED", message: "no" } });
      if (req.method === "PUT") {
        if (createHash("sha256").update(body).digest("hex") !== payload) {
          return json(422, { error: { code: "PAYLOAD_MISMATCH", message: "mismatch" } });
        }
        this.payloads.set(payload, body);
        this.#notify();
        return json(201, {});
      }
      const bytes = this.payloads.get(payload);
      if (!bytes) return json(404, { error: { code: "PAYLOAD_NOT_FOUND", message: "gone" } });
      res.writeHead(200, { "content-length": String(bytes.length) });
      res.end(req.method === "HEAD" ? undefined : bytes);
      return;
    }
    json(404, { error: { code: "ROUTE_NOT_FOUND", message: path } });
  }

  #authorised(req: IncomingMessage): boolean {
    return this.#tokens.has(tokenOf(req));
  }

  #upgrade(req: IncomingMessage, socket: import("node:stream").Duplex, head: Buffer): void {
    if (req.url !== limits.AGENT_LINK_PATH || !this.#linkTokens.delete(tokenOf(req))) {
      socket.end("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
      return;
    }
    this.#wss.handleUpgrade(req, socket, head, (ws) => this.#connected(ws));
  }

  #connected(ws: WebSocket): void {
    ws.on("error", () => {});
    ws.on("close", () => {
      if (this.#socket === ws) this.#socket = undefined;
      this.#notify();
    });
    ws.on("message", (data) => {
      const decoded = decodeFrame(data as Buffer, FRAMES_UP.service);
      if (!decoded.ok) throw new Error(`the agent sent a bad frame: ${decoded.reason}`);
      this.#take(ws, decoded.frame);
      this.#notify();
    });
  }

  #take(ws: WebSocket, frame: Frame): void {
    this.frames.push(frame);
    switch (frame.t) {
      case "hello":
        this.hellos.push(frame);
        if (this.cutsAtHello > 0) {
          this.cutsAtHello--;
          ws.terminate();
          return;
        }
        if (this.refuse) {
          ws.send(encodeFrame({ t: "refuse", ...this.refuse }));
          ws.close();
          return;
        }
        this.#socket = ws;
        this.#functionsSent = new Set();
        this.#resultsReceived = this.#sentTasks = this.#sentBytes = 0;
        this.#credit = { tasks: 0, bytes: 0 };
        this.send({
          t: "welcome",
          version: 1,
          caps: frame.caps.filter((cap) => this.caps?.includes(cap) ?? true),
          session: randomBytes(8).toString("hex"),
          heartbeatMs: limits.HEARTBEAT_MS,
          deadAfterMs: limits.DEAD_AFTER_MS,
          maxFrameBytes: limits.MAX_FRAME_BYTES,
          software: "fake-service/0",
        });
        return;
      case "credit":
        this.#credit = { tasks: frame.tasks, bytes: frame.bytes };
        return;
      case "ping":
        this.send({ t: "pong", n: frame.n });
        return;
      case "need":
        this.onNeed(frame.functions);
        return;
      case "results":
        this.#takeResults(frame);
        return;
      default:
        return;
    }
  }

  #takeResults(frame: Extract<Frame, { t: "results" }>): void {
    this.#resultsReceived += frame.n;
    const unknown: IdKey[] = [];
    for (let i = 0, start = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      const end = frame.ends.readUInt32LE(4 * i);
      if (this.unknownKeys.has(key)) unknown.push(key);
      else {
        this.results.push({
          key,
          data: frame.data.subarray(start, end),
          codec: byteOf(frame.codecs, i),
          state: byteOf(frame.states, i),
          reason: byteOf(frame.reasons, i),
          attempt: u32Of(frame.attempts, i, 1),
          fence: fenceOf(frame.fences, i),
          seal: frame.seals?.subarray(32 * i, 32 * i + 32),
          held: byteOf(frame.held, i) === 1,
          detail: frame.detail?.[i],
        });
      }
      start = end;
    }
    if (unknown.length > 0) this.send({ t: "unknown", ids: keysToColumn(unknown) });
    if (this.acknowledges) this.markAll();
  }

  #notify(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

async function readBody(req: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of req as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function tokenOf(req: IncomingMessage): string {
  return (req.headers.authorization ?? "").replace(/^Bearer /, "");
}
