/**
 * The agent–node hop over a byte stream (TLS): frames with their length in front, liveness, and how much waits to be
 * written. The same for both sides; it knows nothing of tasks.
 *
 *   1  `onClose` is called once, and nothing is delivered after it.
 *   2  What is no frame of this hop ends the connection (P3).
 *   3  More than CUT_BUFFERED_BYTES unwritten ends it: credit keeps an honest peer far below.
 */
import type { Socket } from "node:net";
import {
  decodeFrame,
  encodeFrame,
  errorMessage,
  type Frame,
  type FrameKind,
  Heartbeat,
  LengthPrefixReader,
  limits,
} from "@farloom/protocol";
import type { FramePort } from "./port.js";

export class StreamPort implements FramePort {
  readonly #socket: Socket;
  readonly #kinds: ReadonlySet<FrameKind>;
  readonly #reader = new LengthPrefixReader();
  #onFrame: ((frame: Frame) => void) | undefined;
  #onClose: ((reason: string) => void) | undefined;
  #heartbeat: Heartbeat | undefined;
  #closed: string | undefined;
  #corked = false;
  /** Resolves when the socket is gone, and with it whatever was sent. */
  readonly gone: Promise<void>;

  /** `kinds` are the frames that may come; `maxFrameBytes` is lower where nobody knows the peer yet. */
  constructor(socket: Socket, kinds: ReadonlySet<FrameKind>, maxFrameBytes: number = limits.MAX_FRAME_BYTES) {
    this.#socket = socket;
    this.#kinds = kinds;
    this.#reader.maxFrameBytes = maxFrameBytes;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    // An error is followed by close.
    socket.on("error", (error) => this.#end(error.message));
    this.gone = new Promise((resolve) => {
      socket.on("close", () => {
        this.#end("the connection was closed");
        resolve();
      });
    });
  }

  get crowded(): boolean {
    return this.#closed !== undefined || this.#socket.writableLength > limits.PAUSE_BUFFERED_BYTES / 4;
  }

  onFrame(listener: (frame: Frame) => void): void {
    this.#onFrame = listener;
  }

  onClose(listener: (reason: string) => void): void {
    this.#onClose = listener;
    if (this.#closed !== undefined) listener(this.#closed);
  }

  /** The peer has proven who it is. */
  trust(): void {
    this.#reader.maxFrameBytes = limits.MAX_FRAME_BYTES;
  }

  /** Hands a frame on to whoever listens now: the first frame was read by another. */
  deliver(frame: Frame): void {
    if (this.#closed === undefined) this.#onFrame?.(frame);
  }

  /** Watches liveness (P18); the connecting side pings. */
  keepAlive(options: {
    readonly heartbeatMs: number;
    readonly deadAfterMs: number;
    readonly pings: boolean;
  }): void {
    const { heartbeatMs, deadAfterMs, pings } = options;
    this.#heartbeat = new Heartbeat({
      heartbeatMs,
      deadAfterMs,
      ...(pings ? { sendPing: (n: number) => this.send({ t: "ping", n }) } : {}),
      onDead: () => this.#cut(errorMessage("LINK_SILENT", { seconds: Math.round(deadAfterMs / 1000) })),
    });
  }

  send(frame: Frame): void {
    if (this.#closed !== undefined) return;
    const socket = this.#socket;
    if (!this.#corked) {
      // Whatever is sent in this turn leaves in one write.
      this.#corked = true;
      socket.cork();
      queueMicrotask(() => {
        this.#corked = false;
        socket.uncork();
      });
    }
    const body = encodeFrame(frame);
    const head = Buffer.allocUnsafe(4);
    head.writeUInt32BE(body.length, 0);
    socket.write(head);
    socket.write(body);
    if (socket.writableLength > limits.CUT_BUFFERED_BYTES) {
      const detail = `${socket.writableLength} bytes wait to be written`;
      this.#cut(errorMessage("LINK_SLOW", { detail })); // 3
    }
  }

  /** Ends the connection once what was sent has left, or after two seconds. */
  close(reason: string): void {
    if (this.#closed !== undefined) return;
    const socket = this.#socket;
    socket.end();
    setTimeout(() => socket.destroy(), 2_000).unref();
    this.#end(reason);
  }

  #read(chunk: Buffer): void {
    if (this.#closed !== undefined) return;
    this.#heartbeat?.heard();
    const frames = this.#reader.push(chunk);
    if ("bad" in frames) {
      this.#invalid(frames.bad);
      return;
    }
    for (const bytes of frames) {
      if (this.#closed !== undefined) return;
      const decoded = decodeFrame(bytes, this.#kinds);
      if (decoded.ok) {
        const { frame } = decoded;
        if (frame.t === "ping") this.send({ t: "pong", n: frame.n });
        else if (frame.t !== "pong") this.#onFrame?.(frame);
      } else if (decoded.code === "FRAME_UNKNOWN") {
        const message = errorMessage("FRAME_UNKNOWN", { detail: decoded.reason });
        this.send({ t: "problem", code: "FRAME_UNKNOWN", message });
      } else {
        this.#invalid(decoded.reason);
        return;
      }
    }
  }

  #invalid(detail: string): void {
    const message = errorMessage("FRAME_INVALID", { detail });
    this.send({ t: "bye", code: "FRAME_INVALID", message });
    this.close(message);
  }

  #cut(reason: string): void {
    this.#end(reason);
    this.#socket.destroy();
  }

  /** 1 */
  #end(reason: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    this.#heartbeat?.stop();
    this.#onClose?.(reason);
  }
}
