/** A task's end that is no success, as a value on its way to the results frame. */
import { limits, type OutcomeDetail, type Reason } from "@farloom/protocol";

const MAX_MESSAGE_CHARS = 4096;

export class Failure extends Error {
  override readonly name = "Failure";
  readonly reason: Reason;
  readonly detail: OutcomeDetail;

  constructor(reason: Reason, type: string, message: string, traceback?: string) {
    super(message);
    this.reason = reason;
    this.detail = { error: { type, message: message.slice(0, MAX_MESSAGE_CHARS) } };
    if (traceback !== undefined) this.detail.error!.traceback = traceback.slice(-limits.MAX_TRACEBACK_BYTES);
  }
}

/** The arguments are not what the caller sent (P25). */
export function corrupt(): Failure {
  return new Failure(
    "payload_corrupt",
    "PayloadCorrupt",
    "the arguments are not those that were sent for this task: they do not bear their seal. Nothing was run",
  );
}

/** What the function threw, whatever it is. */
export function userFailure(thrown: unknown, prefix = ""): Failure {
  if (thrown instanceof Failure) return thrown;
  if (thrown instanceof Error) {
    const type = thrown.constructor?.name || thrown.name;
    return new Failure("user_error", type, `${prefix}${thrown.message}`, stackOf(thrown));
  }
  let text: string;
  try {
    text = typeof thrown === "string" ? thrown : (JSON.stringify(thrown) ?? String(thrown));
  } catch {
    text = "(a value that cannot be shown)";
  }
  return new Failure("user_error", typeof thrown, `${prefix}${text}`);
}

/** The stack without this worker's own frames, causes included. */
function stackOf(error: Error): string {
  const lines = (error.stack ?? "").split("\n").filter((line) => !line.includes("/workers/node/"));
  const cause = error.cause instanceof Error ? `\nCaused by: ${stackOf(error.cause)}` : "";
  return lines.join("\n") + cause;
}
