/**
 * The agent–node hop where both sides live in one process: frames are handed over as objects, never encoded.
 *
 * Invariants
 *   1  Frames arrive in the order in which they were sent.
 *   2  Delivery is never re-entrant: `send` returns before the peer's listener runs, so neither side can be
 *      called back in the middle of its own turn.
 *   3  After `close` nothing more is delivered but what was sent before it; both sides hear `onClose` once.
 *
 * Bound: what waits in a port is delivered in the same turn of the event loop, so it holds at most what one
 * turn produces, which credit limits.
 */
import type { Frame } from "@farloom/protocol";

/** One side of the agent–node hop. In process for a local block: frames are handed over as objects. */
export interface FramePort {
  send(frame: Frame): void;
  onFrame(listener: (frame: Frame) => void): void;
  onClose(listener: (reason: string) => void): void;
  close(reason: string): void;
  /** What is sent now would wait, or be lost. Absent: never. */
  readonly crowded?: boolean;
}

/** Two ports that are each other's peer. */
export function createPortPair(): [FramePort, FramePort] {
  const a = new PortSide();
  const b = new PortSide();
  a.peer = b;
  b.peer = a;
  return [a, b];
}

class PortSide implements FramePort {
  peer!: PortSide;
  #frameListener: ((frame: Frame) => void) | undefined;
  #closeListener: ((reason: string) => void) | undefined;
  #inbox: Frame[] = [];
  #scheduled = false;
  #closing: string | undefined;
  #closed = false;

  send(frame: Frame): void {
    if (this.#closing !== undefined) return;
    this.peer.#take(frame);
  }

  onFrame(listener: (frame: Frame) => void): void {
    this.#frameListener = listener;
    if (this.#inbox.length > 0) this.#schedule();
  }

  onClose(listener: (reason: string) => void): void {
    this.#closeListener = listener;
  }

  close(reason: string): void {
    this.#end(reason);
    this.peer.#end(reason);
  }

  #take(frame: Frame): void {
    if (this.#closing !== undefined) return;
    this.#inbox.push(frame);
    this.#schedule();
  }

  #end(reason: string): void {
    if (this.#closing !== undefined) return;
    this.#closing = reason;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#deliver());
  }

  #deliver(): void {
    this.#scheduled = false;
    if (this.#frameListener) {
      const frames = this.#inbox;
      this.#inbox = [];
      for (const frame of frames) this.#frameListener(frame);
    }
    if (this.#closing === undefined || this.#closed || this.#inbox.length > 0) return;
    this.#closed = true;
    this.#closeListener?.(this.#closing);
  }
}
