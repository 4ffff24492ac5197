/** A task as REST shows it: rows become words, results become JSON where they are. */
import {
  CODEC_REFERENCE,
  CODECS,
  codecName,
  decodeBounded,
  decodeReference,
  limits,
  reasonName,
  stateName,
  type TaskState,
  type WaitCode,
} from "@farloom/protocol";
import { isDeeperThan } from "../http/json-depth.js";
import type { LateRow } from "../store/late-results.js";
import type { TaskReader, TaskRow } from "./reader.js";

export interface ViewOptions {
  /** Replies in MessagePack carry bytes as bytes; JSON carries them in base64. */
  readonly msgpack: boolean;
}

/** Fields are absent where there is nothing to say. Times are RFC 3339, durations milliseconds. */
export interface TaskView {
  id: string;
  group: string;
  function?: string;
  functionId?: string;
  endpoint: string;
  endpointName?: string;
  state: TaskState;
  reason?: string;
  attempt: number;
  submittedAt: string;
  startedAt?: string;
  finishedAt?: string;
  cancelRequested?: true;
  /** Why an open task is not running yet. */
  waiting?: {
    for: "delay" | "endpoint" | "worker";
    /** Of a closed list (docs/waiting.md); `message` says it in a sentence. */
    code: WaitCode;
    message: string;
    since?: string;
    until?: string;
    /** When the batch system expects the block to begin. */
    estimatedStart?: string;
  };
  /** What a running function said last of how far it is (`farloom.progress`). */
  progress?: { done: number; total?: number };
  /** The decoded result of a task that succeeded, where its codec crosses languages. */
  result?: unknown;
  /** The result as it is, where it cannot be decoded here. */
  resultBytes?: string | Buffer;
  resultCodec?: string;
  /** Where a large result is: GET /v1/payloads/{digest}, or /v1/tasks/{id}/result. */
  resultPayload?: { digest: string; sizeBytes: number; codec: string };
  error?: { type: string; message: string; traceback?: string };
  stdout?: string;
  stderr?: string;
  stdoutBytes?: number;
  stderrBytes?: number;
  exitCode?: number;
  signal?: string;
  worker?: string;
  times?: { totalMs: number; roadMs: number; queueMs: number; runMs: number; cpuMs: number };
  peakMemoryKb?: number;
  /** Of a task that was cancelled or ran out of time: whether it is certain that no process of it is left. */
  confirmed?: boolean;
  /** What its agent told after the task had ended without it. It changes nothing: the state above is the outcome. */
  late?: LateView;
}

export interface LateView {
  state: TaskState;
  reason?: string;
  attempt: number;
  receivedAt: string;
  result?: unknown;
  resultBytes?: string | Buffer;
  resultCodec?: string;
  resultPayload?: { digest: string; sizeBytes: number; codec: string };
  error?: { type: string; message: string; traceback?: string };
}

/** The task without its result and output. */
export function lightView(reader: TaskReader, row: TaskRow): TaskView {
  const state = reader.stateOf(row);
  const view: TaskView = {
    id: row.id,
    group: row.group_id,
    endpoint: row.endpoint_id,
    state,
    attempt: row.state === null ? row.attempt : row.outcome_attempt,
    submittedAt: row.submitted_at.toISOString(),
  };
  if (row.function_name !== null) {
    view.function = `${row.function_owner}/${row.function_name}@${row.function_version}`;
    view.functionId = row.function_digest!.toString("hex");
  }
  // A deleted endpoint's row is named `name~id`.
  if (row.endpoint_name !== null) view.endpointName = row.endpoint_name.split("~", 1)[0]!;
  if (row.started_at !== null) view.startedAt = row.started_at.toISOString();
  if (row.state === null) {
    if (row.cancel_requested_at !== null) view.cancelRequested = true;
    const waiting = waitingOf(reader, row, state);
    if (waiting) view.waiting = waiting;
    const progress = state === "STARTED" ? reader.progressOf(row) : undefined;
    if (progress) view.progress = progress;
    return view;
  }
  view.finishedAt = row.finished_at.toISOString();
  if (row.reason !== 0) view.reason = reasonName(row.reason);
  if (row.error !== null) view.error = row.error!;
  const totalMs = Math.max(0, row.finished_at.getTime() - row.submitted_at.getTime());
  const queueMs = row.queue_us / 1000;
  const runMs = row.run_us / 1000;
  view.times = {
    totalMs,
    roadMs: Math.max(0, totalMs - queueMs - runMs),
    queueMs,
    runMs,
    cpuMs: row.cpu_us / 1000,
  };
  if (row.peak_kb > 0) view.peakMemoryKb = row.peak_kb;
  return view;
}

/** The task with everything; the row must have been read whole. */
export function wholeView(reader: TaskReader, row: TaskRow, options: ViewOptions): TaskView {
  const view = lightView(reader, row);
  if (row.state === null) return view;
  const { error: _, ...output } = row.detail ?? {};
  Object.assign(view, output);
  if (view.state === "SUCCEEDED") addResult(view, row, options.msgpack);
  return view;
}

/** A late result as it is shown. */
export function lateView(row: LateRow, options: ViewOptions): LateView {
  const view: LateView = {
    state: stateName(row.state)!,
    attempt: row.attempt,
    receivedAt: row.received_at.toISOString(),
  };
  if (row.reason !== 0) view.reason = reasonName(row.reason);
  if (row.detail?.error) view.error = row.detail.error;
  if (view.state === "SUCCEEDED") addResult(view, row, options.msgpack);
  return view;
}

function addResult(
  view: TaskView | LateView,
  row: { readonly result?: Buffer; readonly codec: number },
  msgpack: boolean,
): void {
  const bytes = row.result!;
  const codec = codecName(row.codec) ?? "unknown";
  view.resultCodec = codec;
  if (row.codec & CODEC_REFERENCE) {
    const ref = decodeReference(bytes);
    if (ref) view.resultPayload = { digest: ref.digest.toString("hex"), sizeBytes: ref.sizeBytes, codec };
    return;
  }
  const decoded = decode(bytes, row.codec, msgpack);
  if (decoded) view.result = decoded.value;
  else view.resultBytes = msgpack ? bytes : bytes.toString("base64");
}

/** Undefined where the bytes are not ours to decode (pickle), or cannot be said in the reply's format. */
function decode(bytes: Buffer, codec: number, msgpack: boolean): { value: unknown } | undefined {
  if (codec === CODECS.json && !isDeeperThan(bytes, limits.MAX_JSON_DEPTH)) {
    try {
      return { value: JSON.parse(bytes.toString("utf8")) };
    } catch {
      return undefined;
    }
  }
  if (codec === CODECS.msgpack && msgpack) {
    const value = decodeBounded(bytes, {
      maxBytes: limits.MAX_INLINE_BYTES,
      maxDepth: limits.MAX_JSON_DEPTH,
      maxElements: limits.MAX_INLINE_BYTES,
    });
    return value.ok ? value : undefined;
  }
  return undefined;
}

/** What a delay, the endpoint and the workers each have to do with a wait: for whoever knows no codes. */
const WAITS_FOR: Readonly<Partial<Record<WaitCode, "delay" | "endpoint">>> = {
  delayed: "delay",
  backoff: "delay",
  endpoint_never_connected: "endpoint",
  endpoint_away: "endpoint",
  endpoint_draining: "endpoint",
};

function waitingOf(reader: TaskReader, row: TaskRow, state: TaskState): TaskView["waiting"] {
  if (state === "STARTED" && !(row.not_before !== null && row.not_before.getTime() > Date.now()))
    return undefined;
  const { code, sentence, sinceMs, untilMs, estimatedStartMs } = reader.whyOf(row, state);
  const time = (ms: number): string => new Date(ms).toISOString();
  return {
    for: WAITS_FOR[code] ?? "worker",
    code,
    message: sentence,
    ...(sinceMs === undefined ? {} : { since: time(sinceMs) }),
    ...(untilMs === undefined ? {} : { until: time(untilMs) }),
    ...(estimatedStartMs === undefined ? {} : { estimatedStart: time(estimatedStartMs) }),
  };
}
