/**
 * One WebSocket to the service, from the dial to its end: handshake (P6), heartbeat (P18), frames in and out. How it
 * ended is told once, as a value: whether another try may succeed is decided here and in errors.ts alone.
 */
import type { IncomingMessage } from "node:http";
import { isIP, connect as netConnect, type Socket, type TcpNetConnectOpts } from "node:net";
import { type ConnectionOptions as ConnectionOptionsOfTls, connect as tlsConnect } from "node:tls";
import {
  decodeFrame,
  encodeFrame,
  FarloomError,
  FRAMES_UP,
  type Frame,
  type FrameKind,
  Heartbeat,
  limits,
  type WelcomeFrame,
} from "@farloom/protocol";
import WebSocket from "ws";
import { mayRetry, remoteError } from "../errors.js";
import { connectionErrorText, parseProblem } from "../problem.js";

/** Frames that reach the link; the rest is the connection's own affair. */
export type LinkFrame = Extract<
  Frame,
  {
    t: Exclude<
      typeof FRAMES_UP.client extends ReadonlySet<infer K> ? K : never,
      "welcome" | "refuse" | "pong"
    >;
  }
>;

/** How a connection ended. */
export type Ended =
  | { readonly kind: "retryable"; readonly error: FarloomError; readonly retryAfterMs: number | undefined }
  | { readonly kind: "fatal"; readonly error: FarloomError };

export interface ConnectionOptions {
  /** The service's address, http or https. */
  readonly url: string;
  readonly apiKey: string;
  readonly software: string;
}

export interface ConnectionEvents {
  welcome(frame: WelcomeFrame): void;
  frame(frame: LinkFrame): void;
  /** The socket has taken what was sent. */
  writable(): void;
  /** Exactly once. */
  ended(how: Ended): void;
}

/** Time from the dial to `welcome`. A service that is alive answers in milliseconds; TLS over continents in one second. */
const WELCOME_TIMEOUT_MS = 10_000;
/** Asked of an error's body before the upgrade: a problem document has some hundred bytes. */
const MAX_PROBLEM_BYTES = 64 * 1024;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #events: ConnectionEvents;
  readonly #socket: WebSocket;
  readonly #deadline: NodeJS.Timeout;
  #raw: Socket | undefined;
  #refd = true;
  #heartbeat: Heartbeat | undefined;
  #ended = false;
  #saidBye: FarloomError | undefined;
  #welcomedAt: number | undefined;

  constructor(options: ConnectionOptions, events: ConnectionEvents) {
    this.#options = options;
    this.#events = events;
    const address = options.url.replace(/^http/, "ws") + limits.CLIENT_LINK_PATH;
    this.#deadline = setTimeout(
      () => this.#end(this.#unreachable("no welcome within 10 s")),
      WELCOME_TIMEOUT_MS,
    );
    this.#socket = new WebSocket(address, limits.SUBPROTOCOL, {
      headers: { authorization: `Bearer ${options.apiKey}` },
      perMessageDeflate: false,
      maxPayload: limits.MAX_FRAME_BYTES,
      handshakeTimeout: WELCOME_TIMEOUT_MS,
      // Made here, so that the raw socket can be ref'd and unref'd while it still connects.
      createConnection: ((target: TcpNetConnectOpts & { servername?: string }) => {
        const { host = "localhost", port } = target;
        const servername = target.servername || (isIP(host) ? "" : host);
        const raw = address.startsWith("wss:")
          ? tlsConnect({ ...target, path: undefined, servername } as ConnectionOptionsOfTls)
          : netConnect({ host, port, noDelay: true });
        this.#raw = raw;
        if (!this.#refd) raw.unref();
        return raw;
      }) as unknown as NonNullable<WebSocket.ClientOptions["createConnection"]>,
    });
    const socket = this.#socket;
    socket.on("open", () => {
      this.#raw?.setNoDelay?.(true);
      this.send({
        t: "hello",
        role: "client",
        versions: [...limits.SUPPORTED_VERSIONS],
        caps: ["ref", "cancel-running", "progress"],
        software: options.software,
      });
    });
    socket.on("message", (data: Buffer, isBinary: boolean) => this.#message(data, isBinary));
    socket.on("unexpected-response", (_request, response) => this.#rejected(response));
    socket.on("error", (error) => this.#end(this.#unreachable(connectionErrorText(error), error)));
    socket.on("close", (code) => this.#end(this.#closed(code)));
  }

  /** The one place that sends. */
  send(frame: Frame): void {
    if (this.#ended || this.#socket.readyState !== WebSocket.OPEN) return;
    const bytes = encodeFrame(frame);
    if (frame.t === "tasks") this.#socket.send(bytes, this.#onWritten);
    else this.#socket.send(bytes);
  }

  readonly #onWritten = (error?: Error | null): void => {
    if (!error) this.#events.writable();
  };

  /** Sent and not yet taken by the socket. */
  get bufferedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  /** Since the welcome. */
  get uptimeMs(): number {
    return this.#welcomedAt === undefined ? 0 : performance.now() - this.#welcomedAt;
  }

  ref(): void {
    this.#refd = true;
    this.#raw?.ref();
    this.#deadline.ref();
  }

  unref(): void {
    this.#refd = false;
    this.#raw?.unref();
    this.#deadline.unref();
  }

  /** Says bye and ends; `ended` follows. */
  close(): void {
    this.send({ t: "bye", code: "CLIENT_CLOSED", message: "the client is done" });
    this.#end({ kind: "fatal", error: new FarloomError("CLIENT_CLOSED") });
  }

  /** Ends it for this reason; another connection may do better. */
  giveUp(error: FarloomError): void {
    this.#end(outcomeOf(error));
  }

  /** The peer has broken the rules: says so, and ends. */
  abort(reason: string): void {
    this.#broken(reason);
  }

  #message(data: Buffer, isBinary: boolean): void {
    if (this.#ended) return;
    this.#heartbeat?.heard();
    if (!isBinary) {
      this.#broken("a text message");
      return;
    }
    const decoded = decodeFrame(data, FRAMES_UP.client as ReadonlySet<FrameKind>);
    if (!decoded.ok) {
      if (decoded.code !== "FRAME_UNKNOWN") {
        this.#broken(decoded.reason);
        return;
      }
      this.send({ t: "problem", code: "FRAME_UNKNOWN", message: decoded.reason });
      return;
    }
    const frame = decoded.frame;
    switch (frame.t) {
      case "welcome":
        this.#welcome(frame);
        return;
      case "refuse":
        this.#end(outcomeOf(remoteError(frame.code, frame.message, { retryAfterMs: frame.retryAfterMs })));
        return;
      case "pong":
        return;
      case "bye":
        this.#saidBye = remoteError(frame.code, frame.message);
        return;
      default:
        if (this.#welcomedAt === undefined) {
          this.#broken(`${frame.t} before welcome`);
          return;
        }
        this.#events.frame(frame as LinkFrame);
    }
  }

  #welcome(frame: WelcomeFrame): void {
    if (this.#welcomedAt !== undefined) return;
    clearTimeout(this.#deadline);
    this.#welcomedAt = performance.now();
    this.#heartbeat = new Heartbeat({
      heartbeatMs: frame.heartbeatMs,
      deadAfterMs: frame.deadAfterMs,
      sendPing: (n) => this.send({ t: "ping", n }),
      onDead: () =>
        this.#end(
          outcomeOf(new FarloomError("LINK_SILENT", { seconds: Math.round(frame.deadAfterMs / 1000) })),
        ),
    });
    this.#events.welcome(frame);
  }

  #rejected(response: IncomingMessage): void {
    const chunks: Buffer[] = [];
    let size = 0;
    response.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MAX_PROBLEM_BYTES) chunks.push(chunk);
      else response.destroy();
    });
    response.on("close", () => {
      const status = response.statusCode ?? 500;
      const error = parseProblem(status, Buffer.concat(chunks), response.headers["retry-after"]);
      this.#end(outcomeOf(error));
    });
  }

  #broken(reason: string): void {
    this.send({ t: "bye", code: "FRAME_INVALID", message: reason });
    this.#end(outcomeOf(new FarloomError("FRAME_INVALID", { detail: reason })));
  }

  #closed(code: number): Ended {
    if (this.#saidBye) return outcomeOf(this.#saidBye);
    return this.#unreachable(`the connection closed (${code})`);
  }

  #unreachable(detail: string, cause?: unknown): Ended {
    return {
      kind: "retryable",
      error: new FarloomError("SERVICE_UNREACHABLE", { url: this.#options.url, detail }, { cause }),
      retryAfterMs: undefined,
    };
  }

  #end(how: Ended): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#deadline);
    this.#heartbeat?.stop();
    const socket = this.#socket;
    if (socket.readyState === WebSocket.OPEN) socket.close();
    // A peer that does not answer the close must not hold the process; ws cuts it after its own time.
    this.#raw?.unref();
    if (socket.readyState === WebSocket.CONNECTING) socket.terminate();
    this.#events.ended(how);
  }
}

/** Credentials, versions and broken frames do not mend themselves; everything else may. */
function outcomeOf(error: FarloomError): Ended {
  const passing = mayRetry(error) || error.code === "LINK_REPLACED";
  return passing ? { kind: "retryable", error, retryAfterMs: error.retryAfterMs } : { kind: "fatal", error };
}
