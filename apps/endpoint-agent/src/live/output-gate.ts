/**
 * Live output on its way through the agent (P33): from a node's line straight to the service, past the journal, as
 * nothing of it is durable.
 *
 *   G1  A node speaks of the tasks that it was handed, and of no others; the attempt is the one that the agent knows.
 *   G2  OUTPUT_BYTES_PER_S and no more goes up, and nothing while the link is full: results come first.
 *   G3  While there is no session, or no room in it, what came waits here, in order, up to MAX_PENDING_BYTES. What goes
 *       beyond is lost, and seen as a gap by its positions.
 */
import {
  ByteBudget,
  buildOutput,
  type IdKey,
  limits,
  type OutputFrame,
  type OutputPiece,
  piecesOf,
} from "@farloom/protocol";

/** What nodes tell while a service restarts. */
const MAX_PENDING_BYTES = 2 * 1024 * 1024;

export interface OutputGateOptions {
  /** The attempt of a task that this node was handed; undefined where it was not. */
  readonly attemptOn: (node: string, key: IdKey) => number | undefined;
  /** False where the frame could not go now. */
  readonly send: (frame: OutputFrame) => boolean;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export class OutputGate {
  readonly #options: OutputGateOptions;
  readonly #budget: ByteBudget;
  /** Whether the service of this session hears output; undefined while there is no session. */
  #isHeard: boolean | undefined;
  #pending: OutputPiece[] = [];
  #pendingBytes = 0;

  constructor(options: OutputGateOptions) {
    this.#options = options;
    this.#budget = new ByteBudget(limits.OUTPUT_BYTES_PER_S, options.now);
  }

  /** A session begins. */
  opened(isHeard: boolean): void {
    this.#isHeard = isHeard;
    if (isHeard) this.#flush();
    else this.#clear();
  }

  closed(): void {
    this.#isHeard = undefined;
  }

  /** Passes on what may pass. */
  take(frame: OutputFrame, node: string): void {
    if (this.#isHeard === false) return;
    for (const piece of piecesOf(frame)) {
      const attempt = this.#options.attemptOn(node, piece.key); // G1
      const bytes = piece.data.length;
      const hasRoom = this.#pendingBytes + bytes <= MAX_PENDING_BYTES; // G3
      if (attempt === undefined || !hasRoom || !this.#budget.take(bytes)) continue; // G2
      this.#pending.push({ ...piece, attempt });
      this.#pendingBytes += bytes;
    }
    if (this.#isHeard) this.#flush();
  }

  #flush(): void {
    while (this.#pending.length > 0) {
      const some = this.#pending.slice(0, limits.MAX_BATCH_ITEMS);
      if (!this.#options.send(buildOutput(some))) return;
      this.#pending.splice(0, some.length);
      for (const { data } of some) this.#pendingBytes -= data.length;
    }
  }

  #clear(): void {
    this.#pending = [];
    this.#pendingBytes = 0;
  }
}
