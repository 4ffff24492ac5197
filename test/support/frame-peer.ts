/**
 * One side of a link for tests: a real WebSocket that keeps every frame it hears and lets a test wait for what it
 * wants to see. It judges nothing and answers nothing; `EchoAgent` and `LinkClient` stand on it.
 */
import { decodeFrame, encodeFrame, type Frame, type FrameKind, limits } from "@farloom/protocol";
import { WebSocket } from "ws";

/** Frames kept for a look; beyond, the oldest are let go. */
const KEPT_FRAMES = 5_000;
const WAIT_MS = 10_000;
/** As the protocol asks of the side that connects (P18). */
const PING_MS = limits.HEARTBEAT_MS;

export interface PeerOptions {
  /** Of the service: `http://host:port`. */
  readonly url: string;
  readonly path: string;
  readonly token: string;
  readonly kinds: ReadonlySet<FrameKind>;
}

export class FramePeer {
  readonly frames: Frame[] = [];
  readonly socket: WebSocket;
  /** The close code, once it is closed. */
  closedWith: number | undefined;
  readonly #listeners = new Set<() => void>();
  readonly #onFrame: (frame: Frame) => void;

  private constructor(socket: WebSocket, options: PeerOptions, onFrame: (frame: Frame) => void) {
    this.socket = socket;
    this.#onFrame = onFrame;
    socket.on("message", (data: Buffer) => {
      const decoded = decodeFrame(data, options.kinds);
      if (!decoded.ok) throw new Error(`the service sent what is no frame: ${decoded.reason}`);
      if (this.frames.length >= KEPT_FRAMES) this.frames.splice(0, KEPT_FRAMES / 2);
      this.frames.push(decoded.frame);
      this.#onFrame(decoded.frame);
      this.#changed();
    });
    const pings = setInterval(() => this.send({ t: "ping", n: 1 }), PING_MS);
    socket.on("close", (code) => {
      clearInterval(pings);
      this.closedWith = code;
      this.#changed();
    });
    socket.on("error", () => undefined);
  }

  /** Resolves when the upgrade is done. */
  static async open(options: PeerOptions, onFrame: (frame: Frame) => void): Promise<FramePeer> {
    const socket = new WebSocket(options.url.replace("http", "ws") + options.path, limits.SUBPROTOCOL, {
      headers: { authorization: `Bearer ${options.token}` },
      perMessageDeflate: false,
    });
    const peer = new FramePeer(socket, options, onFrame);
    await new Promise<void>((resolve, reject) => {
      socket.once("open", () => resolve());
      socket.once("error", reject);
    });
    return peer;
  }

  send(frame: Frame): void {
    this.sendBytes(encodeFrame(frame));
  }

  sendBytes(bytes: Buffer): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  of<K extends FrameKind>(kind: K): Extract<Frame, { t: K }>[] {
    return this.frames.filter((frame): frame is Extract<Frame, { t: K }> => frame.t === kind);
  }

  /** Resolves once the condition holds; looks again at every frame and at the end of the connection. */
  async until(condition: () => boolean, what: string, timeoutMs = WAIT_MS): Promise<void> {
    if (condition()) return;
    let timer: NodeJS.Timeout | undefined;
    let look: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        look = () => condition() && resolve();
        this.#listeners.add(look);
        timer = setTimeout(() => {
          const last = this.frames.slice(-5).map((frame) => describe(frame));
          reject(new Error(`${what}: not within ${timeoutMs} ms; last frames: ${last.join(" ")}`));
        }, timeoutMs);
      });
    } finally {
      clearTimeout(timer);
      if (look) this.#listeners.delete(look);
    }
  }

  /** The peer said good-bye with this code, and closed. */
  async untilEnded(): Promise<string | undefined> {
    await this.until(() => this.closedWith !== undefined, "the end of the connection");
    return this.of("bye").at(-1)?.code;
  }

  async close(): Promise<void> {
    this.socket.close();
    await this.until(() => this.closedWith !== undefined, "the close").catch(() => this.socket.terminate());
  }

  #changed(): void {
    for (const look of [...this.#listeners]) look();
  }
}

function describe(frame: Frame): string {
  if (frame.t === "tasks" || frame.t === "results") return `${frame.t}(${frame.n})`;
  if (frame.t === "mark") return `mark(${frame.accepted}/${frame.durable})`;
  return "code" in frame ? `${frame.t}(${frame.code})` : frame.t;
}
