/**
 * Every frame, as one discriminated union on `t`. PROTOCOL.md says what each means; `validate.ts` says what
 * each must look like; `columns.ts` builds and reads the two batches. Validated at the edge, trusted inside.
 */
import type { FunctionDefinition } from "../functions/definition.js";
import type { IsolationInfo } from "../functions/isolation.js";
import type { OutcomeDetail } from "../task/outcome.js";

/** Sparse overrides of one task. Times in milliseconds. */
export interface TaskOptions {
  timeoutMs?: number;
  queueTimeoutMs?: number;
  /** Its whole life, from submission; on the wire, what remains of it. */
  deadlineMs?: number;
  delayMs?: number;
  retries?: number;
  backoffMs?: number;
  mode?: "at_most_once" | "at_least_once";
  cwd?: string;
  env?: Record<string, string>;
  /** The function may submit tasks itself, by a token of the task's own (P28). */
  nested?: boolean;
  /** Names of the caller's secrets that its function may be given (P40). */
  secrets?: string[];
  /** Service–agent and below: whose task it is, where that is not the endpoint's owner (P36b). */
  submitter?: string;
  /** The caller's signature over this call, a DSSE envelope (P37d). */
  invocation?: string;
  /** Node–worker only: where the bytes of a reference (codec bit 7) lie. A node manager overwrites whatever came. */
  argsFile?: string;
  /** From the agent down: the whole nodes that the call has (P34c). Whatever came from above is overwritten. */
  whole?: WholeNodesOption | undefined;
}

/** Whole nodes of a block that one call has for itself. */
export interface WholeNodesOption {
  /** What the launcher calls them; the call runs on the first. */
  nodes: string[];
  /** Node–worker only: processes over all of them, and what stands before a program that is to run as these. */
  ranks?: number;
  prefix?: string[];
}

/** Columns of tasks, going down. */
export interface TasksFrame {
  t: "tasks";
  n: number;
  /** Position of the first of them in this session's stream (P10a). */
  first?: number | undefined;
  ids: Buffer;
  fns: Buffer[];
  fn?: Buffer | undefined;
  codecs: number | Buffer;
  ends: Buffer;
  args: Buffer;
  attempts?: Buffer | undefined;
  /** The lease of each, or of all: what its result must bear (P26). */
  fences?: number | Buffer | undefined;
  /** The caller's seal over each task's arguments (P25). */
  seals?: Buffer | undefined;
  opts?: Record<number, TaskOptions> | undefined;
  endpoint?: Buffer | undefined;
  group?: Buffer | undefined;
  /** 1: these may have been submitted before, so nothing travels before the commit. */
  again?: number | undefined;
}

/** Columns of results, going up. */
export interface ResultsFrame {
  t: "results";
  n: number;
  /** Position of the first of them in this session's stream (P10a). */
  first?: number | undefined;
  ids: Buffer;
  codecs: number | Buffer;
  ends: Buffer;
  data: Buffer;
  attempts?: Buffer | undefined;
  /** The lease under which each was made, or all (P26). */
  fences?: number | Buffer | undefined;
  /** The worker's seal over each result (P25). */
  seals?: Buffer | undefined;
  states: number | Buffer;
  reasons?: Buffer | undefined;
  queueUs?: Buffer | undefined;
  runUs?: Buffer | undefined;
  cpuUs?: Buffer | undefined;
  peakKb?: Buffer | undefined;
  held?: Buffer | undefined;
  detail?: Record<number, OutcomeDetail> | undefined;
}

/** What an agent says of itself. */
/** A Python that runs functions; `cloudpickle` is absent where it is not installed. */
export interface PythonInfo {
  version: string;
  program: string;
  cloudpickle?: string | undefined;
  /** Versions by name in small letters with -: distributions, and modules that are named otherwise; at most 2,000. */
  packages?: Record<string, string> | undefined;
}

export interface AgentInfo {
  host: string;
  os: string;
  bootId: string;
  nodeVersion: string;
  runtimes: Record<string, string>;
  /** By interpreter name, as in a function's `env.interpreter`; that of functions that name none is `default`. */
  pythons?: Record<string, PythonInfo> | undefined;
  /** `nodes`: `pythons` are those that run functions. Absent: those of the agent's machine, and its nodes are others. */
  pythonsOf?: "nodes" | undefined;
  workers: number;
  cores: number;
  memoryMb: number;
  /** What workers are given for themselves, where the one node is this machine. */
  gear?: GearInfo | undefined;
  /** How its workers are kept apart; absent: not at all (P36). */
  isolation?: IsolationInfo | undefined;
  /** It hands secrets to functions, and masks them in what they write (P40); absent: it does not. */
  secrets?: boolean | undefined;
}

/** The GPUs of a machine, and how far its workers are pinned and limited, as people read it. */
export interface GearInfo {
  gpus: { id: string; name?: string; memoryMb?: number }[];
  gpusFrom: string;
  gpuSlots: number;
  cores: string;
  memory: string;
}

/** What a node has for tasks. `places`: how many run at the same time. What is absent is not known, and not counted. */
export interface NodeCapacity {
  places: number;
  cores?: number | undefined;
  memoryMb?: number | undefined;
  gpus?: number | undefined;
  /** Shares that each of its GPUs is divided into; absent: 1. */
  gpuSlots?: number | undefined;
  /** What a launcher of parallel programs calls it. */
  host?: string | undefined;
  /** There will be no other node: it answers for what it can never run. */
  alone?: boolean | undefined;
}

export interface HelloFrame {
  t: "hello";
  role: "client" | "agent" | "node" | "worker";
  versions: number[];
  caps: string[];
  software: string;
  /** Agent: ids of what it holds unfinished (P15). Worker: what it holds (P17). */
  held?: Buffer | undefined;
  /** Agent: attempt (u32) and fence (u64) of each of `held`; absent: all 1, all unknown. */
  heldAttempts?: Buffer | undefined;
  heldFences?: Buffer | undefined;
  /** Agent: the boot of its machine. After another one, what it held may be more than it knows. */
  bootId?: string | undefined;
  /** Agent: for how long its leases stand after its connection has ended; 0: for ever; absent: the service's default. */
  reclaimMs?: number | undefined;
  unacked?: number | undefined;
  agent?: AgentInfo | undefined;
  /** Worker: who it is. */
  worker?: string | undefined;
  /** Worker: its own; node: its block's (P29). */
  secret?: string | undefined;
  pid?: number | undefined;
  running?: Buffer | undefined;
  /** Node: no worker of the time before is missing, so what it was handed and does not hold never started. */
  whole?: boolean | undefined;
  /** Node, over TLS: its block, its name in it, and how often the block was started before. */
  block?: string | undefined;
  node?: string | undefined;
  restart?: number | undefined;
  /** Node, over TLS: 256 bits of its own making, by which it is known again once the secret was used (P29). */
  token?: string | undefined;
  capacity?: NodeCapacity | undefined;
  runtime?: string | undefined;
  /** Worker: `control` marks its second connection, on which `cancel` and `returned` travel. */
  channel?: "control" | undefined;
  /** Worker: the secrets that `running` was given, so that they are masked in what it writes (P40). */
  secrets?: Record<string, string> | undefined;
  /** Worker: for how long `running` has run, and its run time limit (0: none), in milliseconds. */
  runningMs?: number | undefined;
  limitMs?: number | undefined;
}
export interface WelcomeFrame {
  t: "welcome";
  version: number;
  caps: string[];
  session: string;
  heartbeatMs: number;
  deadAfterMs: number;
  maxFrameBytes: number;
  software: string;
}
export interface RefuseFrame {
  t: "refuse";
  code: string;
  message: string;
  retryAfterMs?: number | undefined;
}
export interface CreditFrame {
  t: "credit";
  tasks: number;
  bytes: number;
}
export interface MarkFrame {
  t: "mark";
  accepted: number;
  durable: number;
}
export interface RefusedFrame {
  t: "refused";
  from: number;
  n: number;
  code: string;
  message: string;
  retryAfterMs?: number | undefined;
}
export interface UnknownFrame {
  t: "unknown";
  ids: Buffer;
}
export interface WatchFrame {
  t: "watch";
  group: Buffer;
  ids?: Buffer | undefined;
}
export interface CancelFrame {
  t: "cancel";
  ids: Buffer;
  /**
   * `unbegun`: only what has not begun is to end; of what runs, `progress started` is the answer. `deadline`,
   * agent–node only: the deadline of these tasks has come. Absent: somebody cancelled them, whether they run or not.
   */
  why?: "deadline" | "unbegun" | undefined;
}
export interface ReturnedFrame {
  t: "returned";
  ids: Buffer;
}
/** Agent to node: gives back so many that have not begun, as others could begin them at once. */
export interface RecallFrame {
  t: "recall";
  tasks: number;
  /** The agent drains: everything that has not begun comes back, and the node lives on. */
  all?: boolean | undefined;
}
export interface FunctionsFrame {
  t: "functions";
  defs: FunctionDefinition[];
  /** What each is called, `owner/name@version`, in the order of `defs`; from a service to an agent. */
  refs?: string[] | undefined;
  /** In answer to `need`: the envelopes that are kept of each, in the order of `defs` (P37b). */
  signatures?: string[][] | undefined;
}
export interface NeedFrame {
  t: "need";
  functions: Buffer[];
}
export interface ProgressFrame {
  t: "progress";
  ids: Buffer;
  kind: "started" | "waiting" | "progress";
  /** With kind `progress`, of the one task in `ids`: how far it says that it is, and of how much where it knows. */
  done?: number | undefined;
  total?: number | undefined;
}
/** Pieces of what running tasks have written, going up (P33); output.ts builds and reads it. */
export interface OutputFrame {
  t: "output";
  n: number;
  ids: Buffer;
  attempts: Buffer;
  /** 1 stdout, 2 stderr. */
  streams: Buffer;
  /** Where each begins in its stream, in bytes (u64). */
  at: Buffer;
  ends: Buffer;
  data: Buffer;
}
/** How an endpoint stands, from its agent to the service (P32); why/report.ts reads it. */
export interface ReportFrame {
  t: "report";
  report: Record<string, unknown>;
}
/** Of the one task that a worker runs: it wants the task's own token (P28), or, with `secrets`, its secrets (P40). */
export interface AskFrame {
  t: "ask";
  ids: Buffer;
  secrets?: boolean | undefined;
}
/** The answer: token, service, endpoint and group; or secrets by name; or code and message of why there is none. */
export interface GrantFrame {
  t: "grant";
  ids: Buffer;
  token?: string | undefined;
  expiresInMs?: number | undefined;
  url?: string | undefined;
  endpoint?: string | undefined;
  group?: string | undefined;
  secrets?: Record<string, string> | undefined;
  code?: string | undefined;
  message?: string | undefined;
}
export interface PingFrame {
  t: "ping";
  n: number;
}
export interface PongFrame {
  t: "pong";
  n: number;
}
export interface DrainFrame {
  t: "drain";
  code: string;
  message: string;
}
export interface ByeFrame {
  t: "bye";
  code: string;
  message: string;
}
export interface ProblemFrame {
  t: "problem";
  code: string;
  message: string;
}

export type Frame =
  | HelloFrame
  | WelcomeFrame
  | RefuseFrame
  | CreditFrame
  | MarkFrame
  | TasksFrame
  | ResultsFrame
  | RefusedFrame
  | UnknownFrame
  | WatchFrame
  | CancelFrame
  | ReturnedFrame
  | RecallFrame
  | FunctionsFrame
  | NeedFrame
  | ProgressFrame
  | OutputFrame
  | ReportFrame
  | AskFrame
  | GrantFrame
  | PingFrame
  | PongFrame
  | DrainFrame
  | ByeFrame
  | ProblemFrame;

export type FrameKind = Frame["t"];

/** Who may do what is said by hop and direction (P4): a frame not listed for a direction is as unknown. */
export const FRAMES_UP = {
  /** client receives from service */
  client: new Set([
    "welcome",
    "refuse",
    "credit",
    "mark",
    "results",
    "refused",
    "progress",
    "pong",
    "drain",
    "bye",
    "problem",
  ] as const),
  /** service receives from agent */
  service: new Set([
    "hello",
    "credit",
    "mark",
    "results",
    "refused",
    "returned",
    "progress",
    "output",
    "report",
    "need",
    "ping",
    "pong",
    "drain",
    "bye",
    "problem",
  ] as const),
  /** agent receives from node manager */
  agent: new Set([
    "hello",
    "credit",
    "mark",
    "results",
    "refused",
    "returned",
    "progress",
    "output",
    "need",
    "ask",
    "ping",
    "pong",
    "drain",
    "bye",
    "problem",
  ] as const),
  /** node manager receives from worker */
  node: new Set([
    "hello",
    "credit",
    "mark",
    "results",
    "returned",
    "progress",
    "need",
    "ask",
    "bye",
    "problem",
  ] as const),
} as const;

export const FRAMES_DOWN = {
  /** service receives from client */
  service: new Set(["hello", "tasks", "mark", "watch", "cancel", "ping", "pong", "bye", "problem"] as const),
  /** agent receives from service */
  agent: new Set([
    "welcome",
    "refuse",
    "functions",
    "tasks",
    "mark",
    "cancel",
    "unknown",
    "ping",
    "pong",
    "drain",
    "bye",
    "problem",
  ] as const),
  /** node manager receives from agent */
  node: new Set([
    "welcome",
    "refuse",
    "functions",
    "tasks",
    "mark",
    "cancel",
    "recall",
    "grant",
    "ping",
    "pong",
    "drain",
    "bye",
    "problem",
  ] as const),
  /** worker receives from node manager */
  worker: new Set([
    "welcome",
    "refuse",
    "functions",
    "tasks",
    "mark",
    "cancel",
    "grant",
    "drain",
    "bye",
    "problem",
  ] as const),
} as const;
