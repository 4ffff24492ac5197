/**
 * One connection of a worker: bytes to frames and back. The first frame must be a `hello`; who the worker is,
 * is decided by the listener. What a malformed frame means is decided by whoever owns the link.
 */
import type { Socket } from "node:net";
import {
  type Decoded,
  decodeFrame,
  encodeFrame,
  FRAMES_UP,
  type Frame,
  LengthPrefixReader,
} from "@farloom/protocol";

/** A frame that a node manager may receive from a worker. */
export type WorkerFrame = Extract<Decoded<Extract<Frame, { t: WorkerFrameKind }>>, { ok: true }>["frame"];
type WorkerFrameKind = typeof FRAMES_UP.node extends ReadonlySet<infer K> ? K : never;

export interface WorkerLinkListener {
  onFrame(frame: WorkerFrame): void;
  /** The peer sent what is no frame; the link ends. */
  onBad(reason: string): void;
  onClose(): void;
}

export class WorkerLink {
  readonly #socket: Socket;
  readonly #reader = new LengthPrefixReader();
  #listener: WorkerLinkListener | undefined;
  #ended = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    // An error is followed by close, which says all that matters: the link is gone.
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#ended = true;
      this.#listener?.onClose();
    });
  }

  get closed(): boolean {
    return this.#ended;
  }

  /** Whoever hears the frames from now on. */
  listen(listener: WorkerLinkListener): void {
    this.#listener = listener;
  }

  /** Sends frames in one write. */
  send(...frames: Frame[]): void {
    if (this.#ended) return;
    const socket = this.#socket;
    socket.cork();
    for (const frame of frames) {
      const body = encodeFrame(frame);
      const head = Buffer.allocUnsafe(4);
      head.writeUInt32BE(body.length, 0);
      socket.write(head);
      socket.write(body);
    }
    socket.uncork();
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    const frames = this.#reader.push(chunk);
    if ("bad" in frames) {
      this.#bad(frames.bad);
      return;
    }
    for (const bytes of frames) {
      if (this.#socket.destroyed) return;
      const decoded = decodeFrame(bytes, FRAMES_UP.node);
      if (decoded.ok) this.#listener?.onFrame(decoded.frame);
      else if (decoded.code !== "FRAME_UNKNOWN") {
        this.#bad(decoded.reason);
        return;
      }
    }
  }

  #bad(reason: string): void {
    this.#listener?.onBad(reason);
    this.#socket.destroy();
  }
}
