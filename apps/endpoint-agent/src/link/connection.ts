/**
 * One WebSocket to the service, from the dial to its end. Frames in and out, liveness, and how much waits to be
 * written. It knows nothing of tasks.
 *
 *   C1  `onEnd` is called exactly once, and nothing is delivered after it.
 *   C2  More than CUT_BUFFERED_BYTES unwritten ends the connection; the engine stops feeding it long before.
 *   C3  One place sends a frame, one decodes it.
 */
import type { Socket } from "node:net";
import {
  decodeFrame,
  encodeFrame,
  errorMessage,
  FRAMES_DOWN,
  type Frame,
  Heartbeat,
  limits,
  type WelcomeFrame,
} from "@farloom/protocol";
import WebSocket from "ws";
import { failureOf } from "../http.js";
import { proxyAgentOf } from "../proxy.js";

/** What the agent may receive from the service. */
export type DownFrame = Extract<
  Frame,
  { t: typeof FRAMES_DOWN.agent extends ReadonlySet<infer K> ? K : never }
>;

/** Why a connection ended, or could not be made. `code` is one of the catalogue's where we know one. */
export interface EndReason {
  readonly code: string;
  readonly message: string;
  readonly retryAfterMs?: number | undefined;
}

export interface ConnectionListener {
  /** `bytes` are the frame as it came; views of it are in `frame`. */
  onFrame(frame: DownFrame, bytes: Buffer): void;
  /** What was above PAUSE_BUFFERED_BYTES has been written. */
  onWritable(): void;
  onEnd(reason: EndReason): void;
}

/** What the agent's parts see of an open connection. */
export interface LinkSession {
  send(frame: Frame): void;
  sendBytes(bytes: Buffer): void;
  /** Everything sent by `work` leaves in one write. */
  together(work: () => void): void;
  /** False: wait for `onWritable`. */
  readonly writable: boolean;
  /** Says bye, for this reason, and ends the connection. */
  close(code: string, message: string): void;
}

export class Connection implements LinkSession {
  readonly #ws: WebSocket;
  readonly #socket: Socket | undefined;
  #listener: ConnectionListener | undefined;
  #heartbeat: Heartbeat | undefined;
  #ended: EndReason | undefined;
  #waitsForDrain = false;

  private constructor(ws: WebSocket, socket: Socket | undefined) {
    this.#ws = ws;
    this.#socket = socket;
    socket?.setNoDelay(true);
    ws.on("message", (data, isBinary) => this.#receive(data as Buffer, isBinary));
    ws.on("error", (error) => this.#end({ code: "LINK_BROKEN", message: error.message }));
    ws.on("close", (code, reason) =>
      this.#end({ code: "LINK_BROKEN", message: reason.toString() || `closed with code ${code}` }),
    );
  }

  /** Dials. Resolves to the open connection, or to why there is none. */
  static open(
    url: string,
    token: string,
    signal: AbortSignal,
  ): Promise<{ readonly ok: true; readonly connection: Connection } | ({ readonly ok: false } & EndReason)> {
    return new Promise((resolve) => {
      const agent = proxyAgentOf(url);
      const ws = new WebSocket(url, [limits.SUBPROTOCOL], {
        ...(agent ? { agent } : {}),
        headers: { authorization: `Bearer ${token}` },
        perMessageDeflate: false,
        maxPayload: limits.MAX_FRAME_BYTES,
        handshakeTimeout: limits.HELLO_TIMEOUT_MS,
        followRedirects: false,
      });
      let socket: Socket | undefined;
      const abort = (): void => ws.terminate();
      signal.addEventListener("abort", abort, { once: true });
      const fail = (reason: EndReason): void => {
        signal.removeEventListener("abort", abort);
        resolve({ ok: false, ...reason });
      };
      ws.once("upgrade", (response) => {
        socket = response.socket;
      });
      ws.once("unexpected-response", (_request, response) => {
        void failureOf(new URL(url), response).then(({ code, message, retryAfterMs }) =>
          fail({ code, message, retryAfterMs }),
        );
      });
      const onError = (error: Error): void => fail({ code: "SERVICE_UNREACHABLE", message: error.message });
      ws.on("error", onError);
      ws.once("open", () => {
        signal.removeEventListener("abort", abort);
        const connection = new Connection(ws, socket);
        ws.off("error", onError);
        resolve({ ok: true, connection });
      });
    });
  }

  /** Who hears of frames from now on. */
  listen(listener: ConnectionListener): void {
    this.#listener = listener;
    if (this.#ended) listener.onEnd(this.#ended);
  }

  /** Watches liveness (P18), once the service has said how. */
  keepAlive(welcome: WelcomeFrame): void {
    this.#heartbeat = new Heartbeat({
      heartbeatMs: welcome.heartbeatMs,
      deadAfterMs: welcome.deadAfterMs,
      sendPing: (n) => this.send({ t: "ping", n }),
      onDead: () => {
        const seconds = Math.round(welcome.deadAfterMs / 1000);
        this.#cut({ code: "LINK_SILENT", message: errorMessage("LINK_SILENT", { seconds }) });
      },
    });
  }

  get writable(): boolean {
    return this.#ws.bufferedAmount < limits.PAUSE_BUFFERED_BYTES;
  }

  send(frame: Frame): void {
    this.sendBytes(encodeFrame(frame));
  }

  sendBytes(bytes: Buffer): void {
    if (this.#ended) return;
    this.#ws.send(bytes, SEND_OPTIONS, this.#written);
    const buffered = this.#ws.bufferedAmount;
    if (buffered < limits.PAUSE_BUFFERED_BYTES) return;
    this.#waitsForDrain = true;
    if (buffered > limits.CUT_BUFFERED_BYTES) {
      const detail = `${buffered} bytes wait to be written`;
      this.#cut({ code: "LINK_SLOW", message: errorMessage("LINK_SLOW", { detail }) }); // C2
    }
  }

  together(work: () => void): void {
    this.#socket?.cork();
    try {
      work();
    } finally {
      this.#socket?.uncork();
    }
  }

  /** Says `bye` and closes; cut off after two seconds where the other side does not answer. */
  close(code: string, message: string): void {
    if (this.#ended) return;
    this.send({ t: "bye", code, message });
    this.#ws.close(1000);
    this.#end({ code, message });
    const timer = setTimeout(() => this.#ws.terminate(), 2000);
    timer.unref();
    this.#ws.once("close", () => clearTimeout(timer));
  }

  readonly #written = (): void => {
    if (!this.#waitsForDrain || this.#ended || !this.writable) return;
    this.#waitsForDrain = false;
    this.#listener?.onWritable();
  };

  #receive(data: Buffer, isBinary: boolean): void {
    if (this.#ended) return;
    this.#heartbeat?.heard();
    const decoded = isBinary ? decodeFrame(data, FRAMES_DOWN.agent) : TEXT_MESSAGE;
    if (decoded.ok) {
      const { frame } = decoded;
      if (frame.t === "ping") this.send({ t: "pong", n: frame.n });
      else if (frame.t !== "pong") this.#listener?.onFrame(frame, data);
    } else if (decoded.code === "FRAME_UNKNOWN") {
      const message = errorMessage("FRAME_UNKNOWN", { detail: decoded.reason });
      this.send({ t: "problem", code: "FRAME_UNKNOWN", message }); // P3
    } else this.#invalid(decoded.reason);
  }

  /** The peer broke the contract (P3). */
  #invalid(detail: string): void {
    this.close("FRAME_INVALID", errorMessage("FRAME_INVALID", { detail }));
  }

  #cut(reason: EndReason): void {
    this.#end(reason);
    this.#ws.terminate();
  }

  /** C1 */
  #end(reason: EndReason): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#heartbeat?.stop();
    this.#listener?.onEnd(reason);
  }
}

/** P1 */
const TEXT_MESSAGE = { ok: false, code: "FRAME_INVALID", reason: "a text message" } as const;
const SEND_OPTIONS = { binary: true } as const;
