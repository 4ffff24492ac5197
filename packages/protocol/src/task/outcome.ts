/**
 * Terminal states and reasons: closed lists, shared by the wire (numbers), the database (the same numbers)
 * and everything people see (names). A number is never reused.
 */
export const TERMINAL_STATES = { SUCCEEDED: 1, FAILED: 2, CANCELLED: 3, TIMED_OUT: 4, LOST: 5 } as const;
export type TerminalState = keyof typeof TERMINAL_STATES;
export const OPEN_STATES = ["QUEUED", "LEASED", "STARTED"] as const;
export type OpenState = (typeof OPEN_STATES)[number];
export type TaskState = OpenState | TerminalState;

export const REASONS = {
  none: 0,
  /** The function raised. */
  user_error: 1,
  /** The worker process ended while it ran the task. */
  worker_died: 2,
  /** The task ended several workers. */
  poisoned: 3,
  result_too_large: 4,
  not_authorised: 5,
  endpoint_deleted: 6,
  /** The code does not parse, or has no such entry. */
  function_invalid: 7,
  /** Interpreter or module missing, or of the wrong version. */
  environment: 8,
  run_time_limit: 9,
  queue_time_limit: 10,
  deadline: 11,
  cancelled_by_user: 12,
  /** The agent was lost, with its machine or for good, while the task had or may have started. */
  agent_lost: 13,
  /** The arguments cannot be decoded, or do not fit the function. */
  arguments_invalid: 14,
  /** The result cannot be encoded. */
  result_invalid: 15,
  nonzero_exit: 16,
  function_deleted: 17,
  out_of_memory: 18,
  /** The endpoint has no such runtime. */
  runtime_missing: 19,
  /** A payload file is gone or does not match its digest. */
  payload_missing: 20,
  /** The arguments do not bear their seal: what arrived is not what the caller sent. Nothing was run. */
  payload_corrupt: 21,
} as const;
export type Reason = keyof typeof REASONS;

const STATE_NAMES = new Map<number, TerminalState>(
  Object.entries(TERMINAL_STATES).map(([name, n]) => [n, name as TerminalState]),
);
const REASON_NAMES = new Map<number, Reason>(Object.entries(REASONS).map(([name, n]) => [n, name as Reason]));

/** The name of a terminal state's number. */
export function stateName(n: number): TerminalState | undefined {
  return STATE_NAMES.get(n);
}

/** The name of a reason's number. */
export function reasonName(n: number): Reason {
  return REASON_NAMES.get(n) ?? "none";
}

/** What a failure tells of itself. */
export interface RemoteErrorInfo {
  /** The exception's type, e.g. `ValueError`. */
  type: string;
  message: string;
  /** As the runtime prints it; tail of at most 16 KiB. */
  traceback?: string;
  /** The exception itself for a caller in Python: its pickle in base64, at most 64 KiB of text. */
  data?: string;
}

/** The sparse part of a result: absent for a quiet success. */
export interface OutcomeDetail {
  error?: RemoteErrorInfo;
  /** Tails, at most 64 KiB each. */
  stdout?: string;
  stderr?: string;
  /** How much was written in all. */
  stdoutBytes?: number;
  stderrBytes?: number;
  exitCode?: number;
  signal?: string;
  /** Which worker ran it: `name pid`. */
  worker?: string;
  /** Of a task that was cancelled, or stopped by a time limit: whether it is certain that no process of it is left. */
  confirmed?: boolean;
}

export const CODECS = { json: 1, msgpack: 2, pickle: 3 } as const;
export type CodecName = keyof typeof CODECS;
/** Set in a codec where the bytes are a payload reference. */
export const CODEC_REFERENCE = 128;
/** Digest (32 bytes) and size (u64 little-endian). */
export const REFERENCE_BYTES = 40;

const CODEC_NAMES = new Map<number, CodecName>(
  Object.entries(CODECS).map(([name, n]) => [n, name as CodecName]),
);

/** The name of a codec's number, with or without the reference bit. */
export function codecName(n: number): CodecName | undefined {
  return CODEC_NAMES.get(n & ~CODEC_REFERENCE);
}

/** The 40 bytes that stand for a payload file. */
export function encodeReference(digest: Buffer, sizeBytes: number): Buffer {
  const out = Buffer.allocUnsafe(REFERENCE_BYTES);
  digest.copy(out, 0, 0, 32);
  out.writeBigUInt64LE(BigInt(sizeBytes), 32);
  return out;
}

/** Digest and size of a reference, or undefined where the bytes are none. */
export function decodeReference(bytes: Buffer): { digest: Buffer; sizeBytes: number } | undefined {
  if (bytes.length !== REFERENCE_BYTES) return undefined;
  return { digest: bytes.subarray(0, 32), sizeBytes: Number(bytes.readBigUInt64LE(32)) };
}
