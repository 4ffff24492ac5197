/**
 * What an agent tells of a task besides its result, cut to the bounds of the protocol: the row and every client
 * that reads it rely on them, and an agent is not trusted to keep them.
 */
import { limits, type OutcomeDetail, type RemoteErrorInfo } from "@farloom/protocol";

const MAX_TYPE_CHARS = 200;
const MAX_MESSAGE_CHARS = 16_384;
const MAX_NAME_CHARS = 200;

/** The known fields of the right type, each within its bound; undefined where nothing is left. */
export function boundDetail(detail: OutcomeDetail | undefined): OutcomeDetail | undefined {
  if (detail === undefined) return undefined;
  const out: OutcomeDetail = {};
  const error = boundError(detail.error);
  if (error) out.error = error;
  for (const field of ["stdout", "stderr"] as const) {
    const text = detail[field];
    if (typeof text === "string") out[field] = text.slice(-limits.MAX_OUTPUT_TAIL_BYTES);
  }
  for (const field of ["stdoutBytes", "stderrBytes", "exitCode"] as const) {
    const n = detail[field];
    if (typeof n === "number" && Number.isSafeInteger(n)) out[field] = n;
  }
  for (const field of ["signal", "worker"] as const) {
    const text = detail[field];
    if (typeof text === "string") out[field] = text.slice(0, MAX_NAME_CHARS);
  }
  if (typeof detail.confirmed === "boolean") out.confirmed = detail.confirmed;
  return Object.keys(out).length > 0 ? out : undefined;
}

function boundError(error: unknown): RemoteErrorInfo | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { type, message, traceback, data } = error as Record<string, unknown>;
  return {
    type: typeof type === "string" ? type.slice(0, MAX_TYPE_CHARS) : "Error",
    message: typeof message === "string" ? message.slice(0, MAX_MESSAGE_CHARS) : "",
    ...(typeof traceback === "string" ? { traceback: traceback.slice(-limits.MAX_TRACEBACK_BYTES) } : {}),
    // A part of a pickle is none.
    ...(typeof data === "string" && data.length <= limits.MAX_ERROR_DATA_BYTES ? { data } : {}),
  };
}
