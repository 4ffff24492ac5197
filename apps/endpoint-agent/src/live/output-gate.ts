/**
 * Live output on its way through the agent (P33): from a node's line straight to the service, past the journal, as
 * nothing of it is durable.
 *
 *   G1  A node speaks of the tasks that it was handed, and of no others; the attempt is the one that the agent knows.
 *   G2  OUTPUT_BYTES_PER_S and no more goes up, and nothing while the link is full: results come first. What does not go
 *       is lost, and seen as a gap by its positions.
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

  constructor(options: OutputGateOptions) {
    this.#options = options;
    this.#budget = new ByteBudget(limits.OUTPUT_BYTES_PER_S, options.now);
  }

  /** Passes on what may pass. */
  take(frame: OutputFrame, node: string): void {
    const pieces: OutputPiece[] = [];
    for (const piece of piecesOf(frame)) {
      const attempt = this.#options.attemptOn(node, piece.key); // G1
      if (attempt !== undefined && this.#budget.take(piece.data.length)) pieces.push({ ...piece, attempt }); // G2
    }
    if (pieces.length > 0) this.#options.send(buildOutput(pieces));
  }
}
