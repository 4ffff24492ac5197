/**
 * One WebSocket as a carrier of frames: encodes, decodes, listens for silence, and never buffers without bound
 * for a peer that does not read. Both kinds of link (client, agent) stand on it.
 *
 *   F1  Bytes that are no valid frame end the connection with `bye`; an unknown frame is answered and ignored (P3).
 *   F2  `paused` is true while more than PAUSE_BUFFERED_BYTES wait in the socket; `onDrain` tells when it ends.
 *   F3  What is sent in one go leaves in one write: each costs a system call and wakes the peer.
 *   F4  A peer that leaves CUT_BUFFERED_BYTES unread is cut, and so is one that reads nothing for STALLED_MS while
 *       F2's bytes wait, however lively it pings. Whatever it did not get is in PostgreSQL.
 *   F5  What comes in is not read while `hold` says so: the peer's own buffers fill, and it waits.
 *   F6  `knownMs` is a moment at which the peer was certainly there and heard us: a ping of then has been answered.
 */
import type { Duplex } from "node:stream";
import {
  decodeFrame,
  type ErrorCode,
  type ErrorValues,
  encodeFrame,
  errorMessage,
  type Frame,
  type FrameKind,
  Heartbeat,
  limits,
} from "@farloom/protocol";
import type { Logger } from "pino";
import type { RawData, WebSocket } from "ws";

/** A frame of some MiB passes in this time over any link that is of use. */
const STALLED_MS = 30_000;

/** A WebSocket with the stream below it. */
export interface Upgraded {
  readonly ws: WebSocket;
  readonly stream: Duplex;
}

export interface FrameSocketOptions<K extends FrameKind> extends Upgraded {
  readonly kinds: ReadonlySet<K>;
  readonly log: Logger;
  readonly onFrame: (frame: Extract<Frame, { t: K }>) => void;
  readonly onDrain: () => void;
  readonly onClose: () => void;
}

export class FrameSocket<K extends FrameKind> {
  readonly #ws: WebSocket;
  readonly #options: FrameSocketOptions<K>;
  readonly #heartbeat: Heartbeat;
  #closed = false;
  #paused = false;
  #corked = false;
  /** Runs while much waits, and begins anew whenever the peer reads. */
  #stalled: NodeJS.Timeout | undefined;
  #heldTimer: NodeJS.Timeout | undefined;
  /** F6. At first that of the upgrade, which whoever sends frames has answered by sending them. */
  #knownMs = performance.now();
  readonly #probe: NodeJS.Timeout;
  #probes = 0;
  #probedMs = 0;

  constructor(options: FrameSocketOptions<K>) {
    this.#options = options;
    this.#ws = options.ws;
    this.#heartbeat = new Heartbeat({
      heartbeatMs: limits.HEARTBEAT_MS,
      deadAfterMs: limits.DEAD_AFTER_MS,
      onDead: () => this.end("LINK_SILENT", { seconds: limits.DEAD_AFTER_MS / 1000 }),
    });
    this.#probe = setInterval(() => this.#sendProbe(), limits.HEARTBEAT_MS);
    this.#ws.on("pong", (data) => {
      if (data.toString() === `${this.#probes}`) this.#knownMs = this.#probedMs;
    });
    this.#ws.on("message", (data, isBinary) => this.#receive(data, isBinary));
    this.#ws.on("close", () => this.#close());
    this.#ws.on("error", (err) => {
      options.log.info({ err: err.message }, "a link failed");
      this.#close();
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** On the monotonic clock (F6). */
  get knownMs(): number {
    return this.#knownMs;
  }

  get paused(): boolean {
    return this.#paused;
  }

  send(frame: Frame): void {
    if (this.#closed) return;
    this.#cork();
    this.#ws.send(encodeFrame(frame), this.#sent);
    const buffered = this.#ws.bufferedAmount;
    if (buffered > limits.CUT_BUFFERED_BYTES) {
      this.#options.log.warn({ buffered }, "cutting a peer that does not read");
      this.#ws.terminate();
      this.#close();
    } else if (buffered > limits.PAUSE_BUFFERED_BYTES) {
      this.#paused = true;
      this.#stalled ??= setTimeout(() => this.#cutStalled(), STALLED_MS);
    }
  }

  /** Stops reading, or goes on (F5). A peer that cannot be heard is not silent. */
  hold(held: boolean): void {
    if (this.#closed || held === this.#ws.isPaused) return;
    if (held) {
      this.#ws.pause();
      this.#heldTimer = setInterval(() => this.#heartbeat.heard(), limits.HEARTBEAT_MS);
    } else {
      clearInterval(this.#heldTimer);
      this.#heartbeat.heard();
      this.#ws.resume();
    }
  }

  #sendProbe(): void {
    if (this.#closed || this.#paused) return;
    this.#probes++;
    this.#probedMs = performance.now();
    this.#ws.ping(`${this.#probes}`);
  }

  #cutStalled(): void {
    if (this.#closed) return;
    this.#options.log.warn({ buffered: this.#ws.bufferedAmount }, "cutting a peer that has stopped reading");
    this.#ws.terminate();
    this.#close();
  }

  /** Says why, and closes. */
  end(code: ErrorCode, values: ErrorValues = {}): void {
    if (this.#closed) return;
    this.send({ t: "bye", code, message: errorMessage(code, values) });
    this.#ws.close(1000);
    // A peer that does not answer the close is not waited for.
    setTimeout(() => this.#ws.terminate(), 2000).unref();
    this.#close();
  }

  /** Holds writes back until the code that runs now is done (F3). */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#options.stream.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#options.stream.uncork();
    });
  }

  readonly #sent = (): void => {
    if (this.#stalled !== undefined) {
      clearTimeout(this.#stalled);
      this.#stalled =
        this.#ws.bufferedAmount > limits.PAUSE_BUFFERED_BYTES
          ? setTimeout(() => this.#cutStalled(), STALLED_MS)
          : undefined;
    }
    if (this.#paused && this.#ws.bufferedAmount <= limits.PAUSE_BUFFERED_BYTES) {
      this.#paused = false;
      if (!this.#closed) this.#options.onDrain();
    }
  };

  #receive(data: RawData, isBinary: boolean): void {
    if (this.#closed) return;
    this.#heartbeat.heard();
    if (!isBinary) {
      this.end("FRAME_INVALID", { detail: "a text message; frames are binary" });
      return;
    }
    const decoded = decodeFrame(data as Buffer, this.#options.kinds);
    if (!decoded.ok) {
      if (decoded.code === "FRAME_UNKNOWN") {
        this.send({
          t: "problem",
          code: decoded.code,
          message: errorMessage(decoded.code, { detail: decoded.reason }),
        });
      } else this.end(decoded.code, { detail: decoded.reason });
      return;
    }
    const frame: Frame = decoded.frame;
    if (frame.t === "ping") this.send({ t: "pong", n: frame.n });
    else this.#options.onFrame(decoded.frame);
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#stalled);
    clearInterval(this.#heldTimer);
    clearInterval(this.#probe);
    this.#heartbeat.stop();
    this.#options.onClose();
  }
}
