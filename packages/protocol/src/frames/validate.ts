/**
 * The edge: is this decoded value one of our frames? Everything inside trusts the answer. Fields are
 * checked from a table, and batches also that their columns fit together; unknown fields pass (P3).
 */
import type { Decoded } from "../codec/codec.js";
import { checkDefinition } from "../functions/definition.js";
import { MAX_FUNCTION_SECRETS } from "../functions/secrets.js";
import { MAX_BATCH_ITEMS } from "../limits.js";
import { MAX_ENVELOPE_BYTES } from "../trust/dsse.js";
import type {
  Frame,
  FrameKind,
  HelloFrame,
  OutputFrame,
  ProgressFrame,
  ResultsFrame,
  TaskOptions,
  TasksFrame,
} from "./frames.js";
import { checkOutput } from "./output.js";

type Check = (value: unknown) => boolean;

const int: Check = (v) => typeof v === "number" && Number.isSafeInteger(v) && v >= 0;
const amount: Check = (v) => typeof v === "number" && Number.isFinite(v) && v >= 0;
const str: Check = (v) => typeof v === "string";
const shortStr: Check = (v) => typeof v === "string" && v.length <= 255;
const bool: Check = (v) => typeof v === "boolean";
const bin: Check = (v) => Buffer.isBuffer(v);
const id: Check = (v) => Buffer.isBuffer(v) && v.length === 16;
const ids: Check = (v) => Buffer.isBuffer(v) && v.length % 16 === 0;
const strings: Check = (v) => Array.isArray(v) && v.every(str);
const digests: Check = (v) => Array.isArray(v) && v.every((d) => Buffer.isBuffer(d) && d.length === 32);
const intOrBin: Check = (v) => int(v) || bin(v);
const intOrColumn: Check = (v) => (int(v) && (v as number) < 256) || Buffer.isBuffer(v);
const plainMap: Check = (v) =>
  typeof v === "object" && v !== null && !Array.isArray(v) && !Buffer.isBuffer(v);
const texts: Check = (v) => plainMap(v) && Object.values(v as object).every(str);
const oneOf =
  (...values: string[]): Check =>
  (v) =>
    values.includes(v as string);

const capacity: Check = (v) => {
  if (!plainMap(v)) return false;
  const { places, cores, memoryMb, gpus, gpuSlots, host } = v as Record<string, unknown>;
  const isCount = (n: unknown): boolean => n === undefined || n === null || int(n);
  if (!int(places) || (places as number) < 1 || gpuSlots === 0) return false;
  return [cores, memoryMb, gpus, gpuSlots].every(isCount) && (host == null || shortStr(host));
};

type Spec = {
  readonly need: Readonly<Record<string, Check>>;
  readonly may?: Readonly<Record<string, Check>>;
};

const text = { code: str, message: str };
const SPECS: Record<FrameKind, Spec> = {
  hello: {
    need: {
      role: oneOf("client", "agent", "node", "worker"),
      versions: (v) => Array.isArray(v) && v.every(int),
      caps: strings,
      software: str,
    },
    may: {
      held: ids,
      heldAttempts: bin,
      heldFences: bin,
      bootId: str,
      reclaimMs: int,
      unacked: int,
      agent: plainMap,
      worker: str,
      secret: str,
      pid: int,
      running: id,
      whole: bool,
      block: shortStr,
      node: shortStr,
      restart: int,
      token: shortStr,
      capacity,
      runtime: str,
      channel: oneOf("control"),
      secrets: texts,
      runningMs: int,
      limitMs: int,
    },
  },
  welcome: {
    need: {
      version: int,
      caps: strings,
      session: str,
      heartbeatMs: int,
      deadAfterMs: int,
      maxFrameBytes: int,
      software: str,
    },
  },
  refuse: { need: text, may: { retryAfterMs: int } },
  credit: { need: { tasks: int, bytes: int } },
  mark: { need: { accepted: int, durable: int } },
  tasks: {
    need: { n: int, ids: bin, fns: digests, codecs: intOrColumn, ends: bin, args: bin },
    may: {
      first: int,
      fn: bin,
      attempts: bin,
      fences: intOrBin,
      seals: bin,
      opts: plainMap,
      endpoint: id,
      group: id,
      again: int,
    },
  },
  results: {
    need: { n: int, ids: bin, codecs: intOrColumn, ends: bin, data: bin, states: intOrColumn },
    may: {
      first: int,
      attempts: bin,
      fences: intOrBin,
      seals: bin,
      reasons: bin,
      queueUs: bin,
      runUs: bin,
      cpuUs: bin,
      peakKb: bin,
      held: bin,
      detail: plainMap,
    },
  },
  refused: { need: { from: int, n: int, ...text }, may: { retryAfterMs: int } },
  unknown: { need: { ids } },
  watch: { need: { group: id }, may: { ids } },
  cancel: { need: { ids }, may: { why: oneOf("deadline", "unbegun") } },
  returned: { need: { ids } },
  recall: { need: { tasks: int }, may: { all: bool } },
  functions: {
    need: { defs: Array.isArray },
    may: { refs: strings, signatures: (v) => Array.isArray(v) && v.every(strings) },
  },
  need: { need: { functions: digests } },
  progress: {
    need: { ids, kind: oneOf("started", "waiting", "progress") },
    may: { done: amount, total: amount },
  },
  output: { need: { n: int, ids: bin, attempts: bin, streams: bin, at: bin, ends: bin, data: bin } },
  report: { need: { report: plainMap } },
  ask: { need: { ids: id }, may: { secrets: bool } },
  grant: {
    need: { ids: id },
    may: {
      token: str,
      expiresInMs: int,
      url: str,
      endpoint: str,
      group: str,
      secrets: texts,
      code: str,
      message: str,
    },
  },
  ping: { need: { n: int } },
  pong: { need: { n: int } },
  drain: { need: text },
  bye: { need: text },
  problem: { need: text },
};

/** The value as one of the frames that may come here, or the reason why not. */
export function checkFrame<K extends FrameKind>(
  value: unknown,
  kinds: ReadonlySet<K>,
): Decoded<Extract<Frame, { t: K }>> {
  if (!plainMap(value)) return invalid("a frame is a map");
  const frame = value as Record<string, unknown>;
  const kind = frame.t;
  if (typeof kind !== "string") return invalid("the frame has no kind (t)");
  if (!kinds.has(kind as K)) {
    return { ok: false, code: "FRAME_UNKNOWN", reason: `frame "${kind.slice(0, 40)}" is not known here` };
  }
  const spec = SPECS[kind as FrameKind];
  for (const field in spec.need) {
    if (!spec.need[field]!(frame[field])) return invalid(`${kind}.${field} is missing or has the wrong type`);
  }
  for (const field in spec.may) {
    const v = frame[field];
    if (v === undefined) continue;
    if (v === null) frame[field] = undefined;
    else if (!spec.may[field]!(v)) return invalid(`${kind}.${field} has the wrong type`);
  }
  const bad =
    kind === "tasks"
      ? checkTasks(frame as unknown as TasksFrame)
      : kind === "results"
        ? checkResults(frame as unknown as ResultsFrame)
        : kind === "functions"
          ? checkDefinitions(frame.defs as unknown[])
          : kind === "hello"
            ? checkHello(frame as unknown as HelloFrame)
            : kind === "progress"
              ? checkProgress(frame as unknown as ProgressFrame)
              : kind === "output"
                ? checkOutput(frame as unknown as OutputFrame)
                : undefined;
  if (bad !== undefined) return invalid(`${kind}: ${bad}`);
  return { ok: true, frame: value as Extract<Frame, { t: K }> };
}

function invalid(reason: string): Decoded<never> {
  return { ok: false, code: "FRAME_INVALID", reason };
}

function checkTasks(f: TasksFrame): string | undefined {
  const bad =
    checkBatch(f.n, f.ids, f.ends, f.args, f.codecs) ?? checkColumns(f.n, [f.attempts], 4) ?? checkCustody(f);
  if (bad !== undefined) return bad;
  if (f.fns.length === 0) return "no function";
  if (f.fn === undefined) {
    // Absent means index 0 for all.
  } else if (f.fn.length !== 2 * f.n) return "column fn does not have n entries";
  else {
    for (let i = 0; i < f.n; i++) if (f.fn.readUInt16LE(2 * i) >= f.fns.length) return "fn points past fns";
  }
  if (f.opts) {
    for (const key in f.opts) {
      if (!(Number(key) < f.n)) return `opts has no task ${key.slice(0, 20)}`;
      const why = checkTaskOptions(f.opts[key as unknown as number]);
      if (why !== undefined) return why;
    }
  }
  return undefined;
}

function checkResults(f: ResultsFrame): string | undefined {
  const bad =
    checkBatch(f.n, f.ids, f.ends, f.data, f.codecs) ??
    checkColumns(f.n, [f.attempts, f.queueUs, f.runUs, f.cpuUs, f.peakKb], 4) ??
    checkColumns(f.n, [f.reasons, f.held], 1) ??
    checkCustody(f);
  if (bad !== undefined) return bad;
  if (Buffer.isBuffer(f.states)) {
    if (f.states.length !== f.n) return "column states does not have n entries";
    for (const state of f.states) if (state < 1 || state > 5) return `no terminal state ${state}`;
  } else if (f.states < 1 || f.states > 5) return `no terminal state ${f.states}`;
  if (f.detail) {
    for (const key in f.detail) {
      if (!(Number(key) < f.n)) return `detail has no result ${key.slice(0, 20)}`;
      if (!plainMap(f.detail[key as unknown as number])) return "a detail is a map";
    }
  }
  return undefined;
}

function checkBatch(
  n: number,
  idColumn: Buffer,
  ends: Buffer,
  data: Buffer,
  codecs: number | Buffer,
): string | undefined {
  if (n < 1 || n > MAX_BATCH_ITEMS) return `n is ${n}, at least 1 and at most ${MAX_BATCH_ITEMS}`;
  if (idColumn.length !== 16 * n) return "column ids does not have n entries";
  if (ends.length !== 4 * n) return "column ends does not have n entries";
  if (typeof codecs !== "number" && codecs.length !== n) return "column codecs does not have n entries";
  let before = 0;
  for (let i = 0; i < n; i++) {
    const end = ends.readUInt32LE(4 * i);
    if (end < before) return "ends goes backwards";
    before = end;
  }
  return before === data.length ? undefined : "ends does not end where the bytes do";
}

/** The columns of fences and seals. */
function checkCustody(f: TasksFrame | ResultsFrame): string | undefined {
  if (Buffer.isBuffer(f.fences)) {
    if (f.fences.length !== 8 * f.n) return "column fences does not have n entries";
    // Above 2^53 a number is not exact, and two fences would be one.
    for (let i = 0; i < f.n; i++)
      if (f.fences.readUInt32LE(8 * i + 4) >= 0x20_0000) return "a fence is too large";
  }
  return checkColumns(f.n, [f.seals], 32);
}

function checkHello(f: HelloFrame): string | undefined {
  const n = (f.held?.length ?? 0) / 16;
  if (f.heldAttempts !== undefined && f.heldAttempts.length !== 4 * n)
    return "heldAttempts does not have an entry for each of held";
  if (f.heldFences !== undefined && f.heldFences.length !== 8 * n)
    return "heldFences does not have an entry for each of held";
  if (f.bootId !== undefined && f.bootId.length > 100) return "bootId has more than 100 characters";
  return undefined;
}

function checkProgress(f: ProgressFrame): string | undefined {
  if (f.kind !== "progress") return undefined;
  if (f.ids.length !== 16) return "kind progress is of one task";
  return f.done === undefined ? "kind progress needs done" : undefined;
}

function checkColumns(n: number, columns: (Buffer | undefined)[], width: number): string | undefined {
  for (const column of columns) {
    if (column !== undefined && column.length !== width * n)
      return "an optional column does not have n entries";
  }
  return undefined;
}

function checkDefinitions(defs: unknown[]): string | undefined {
  for (const def of defs) {
    const bad = checkDefinition(def);
    if (bad !== undefined) return bad;
  }
  return undefined;
}

const OPTION_CHECKS: Record<keyof TaskOptions, Check> = {
  timeoutMs: int,
  queueTimeoutMs: int,
  deadlineMs: int,
  delayMs: (v) => int(v) && (v as number) <= 0x7fffffff,
  retries: (v) => int(v) && (v as number) <= 100,
  backoffMs: int,
  mode: oneOf("at_most_once", "at_least_once"),
  cwd: str,
  env: texts,
  nested: bool,
  secrets: (v) => strings(v) && (v as string[]).length <= MAX_FUNCTION_SECRETS,
  submitter: shortStr,
  invocation: (v) => typeof v === "string" && v.length <= MAX_ENVELOPE_BYTES,
  argsFile: str,
  whole: (v) => plainMap(v) && strings((v as Record<string, unknown>).nodes),
};

/** Why these are not task options, or undefined where they are. Unknown options pass. */
export function checkTaskOptions(options: unknown): string | undefined {
  if (!plainMap(options)) return "options are a map";
  for (const [name, check] of Object.entries(OPTION_CHECKS)) {
    const v = (options as Record<string, unknown>)[name];
    if (v !== undefined && !check(v)) return `option ${name} has the wrong type`;
  }
  return undefined;
}
