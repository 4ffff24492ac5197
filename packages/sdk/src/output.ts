/** What a task writes, while it runs and afterwards: an async iterator over the pieces of one stream, as they come. */
import type { TasksApi } from "./resources.js";

export interface OutputOptions {
  /** Default: stdout. */
  readonly stream?: "stdout" | "stderr";
  /** The byte to begin with, e.g. where an earlier reading ended. Default: 0. */
  readonly offset?: number;
  /** The attempt to begin with. Default: the last one. */
  readonly attempt?: number;
  /** Goes on until the task has ended, over its attempts. Default: true; false gives what there is now. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal;
}

export interface OutputChunk {
  readonly attempt: number;
  /** Where the bytes begin in the attempt's stream. */
  readonly offset: number;
  /** Bytes right before these that were not kept: of a flood its middle, or what was lost with an agent. */
  readonly skipped: number;
  readonly bytes: Buffer;
  /** The same as text; a character that two chunks share stands in the second. */
  readonly text: string;
}

/** One long poll; a proxy in between commonly allows 60 s. */
const POLL_SECONDS = 30;

/** Made by handles and remote tasks. */
export async function* outputOf(
  tasks: TasksApi,
  id: string,
  options: OutputOptions = {},
): AsyncGenerator<OutputChunk> {
  const { stream = "stdout", follow = true, signal } = options;
  let { offset = 0, attempt } = options;
  let decoder = new TextDecoder();
  for (;;) {
    const part = await tasks.output(id, {
      stream,
      offset,
      attempt,
      waitSeconds: follow ? POLL_SECONDS : 0,
      signal,
    });
    if (part.bytes.length > 0) {
      const skipped = part.offset - offset;
      if (skipped > 0) decoder = new TextDecoder();
      const text = decoder.decode(part.bytes, { stream: true });
      yield { attempt: part.attempt, offset: part.offset, skipped, bytes: part.bytes, text };
    } else if (!follow && part.more) return;
    attempt = part.attempt;
    offset = part.nextOffset;
    if (part.more) continue;
    if (part.lastAttempt <= part.attempt) return;
    attempt++;
    offset = 0;
    decoder = new TextDecoder();
  }
}
