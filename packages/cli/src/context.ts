/** What every command gets: the output, the client of its options, and how to set its exit code. */
import { Farloom, type FarloomOptions } from "@farloom/sdk";
import type { Command } from "commander";
import type { Output } from "./output.js";

export interface GlobalOptions {
  readonly json?: boolean;
  readonly url?: string;
}

export interface Context {
  readonly output: Output;
  readonly result: { code: number };
}

/** A command that talks to people fails soon: a few tries, a few seconds. */
const PATIENCE = { requestAttempts: 4, connectForMs: 10_000 } as const;

/** Runs `work` with a client of the command's options, and closes it. Ctrl-C aborts the signal once. */
export async function withClient<T>(
  command: Command,
  work: (farloom: Farloom, signal: AbortSignal) => Promise<T>,
  options: FarloomOptions = {},
): Promise<T> {
  const { url } = command.optsWithGlobals<GlobalOptions>();
  const farloom = new Farloom({ ...PATIENCE, ...(url && { url }), ...options });
  const abort = new AbortController();
  const onInterrupt = () => {
    // A second Ctrl-C ends at once.
    process.once("SIGINT", () => process.exit(130));
    abort.abort(new DOMException("interrupted", "AbortError"));
  };
  process.once("SIGINT", onInterrupt);
  try {
    return await work(farloom, abort.signal);
  } finally {
    process.removeListener("SIGINT", onInterrupt);
    await farloom.close({ timeoutMs: abort.signal.aborted ? 3_000 : 30_000 });
  }
}

/** Up to `limit` items of a list that comes page by page. */
export async function take<T>(items: AsyncIterable<T>, limit: number): Promise<T[]> {
  const taken: T[] = [];
  if (limit <= 0) return taken;
  for await (const item of items) {
    taken.push(item);
    if (taken.length >= limit) break;
  }
  return taken;
}
