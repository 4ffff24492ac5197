/** The shapes of task requests and replies, for the checks and for the API page. */
import {
  type CodecName,
  MAX_ENVELOPE_BYTES,
  MAX_FUNCTION_SECRETS,
  OPEN_STATES,
  TERMINAL_STATES,
  WAIT_CODES,
} from "@farloom/protocol";
import { Type } from "typebox";
import { MAX_BACKOFF_MS, MAX_RETRIES, MAX_TIMEOUT_MS } from "../functions/definition-input.js";
import { MAX_TASKS_PER_REQUEST } from "../tasks/submission.js";
import type { TaskView } from "../tasks/view.js";
import { MAX_WAIT_S } from "../tasks/waiting.js";
import { Digest, Strict, Time, Uuid } from "./schemas.js";

export const STATES: readonly string[] = [...OPEN_STATES, ...Object.keys(TERMINAL_STATES)];
/** Delays are kept as 32-bit milliseconds. */
const MAX_DELAY_MS = 24 * 24 * 3_600_000;

const Options = Strict(
  {
    timeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_TIMEOUT_MS })),
    queueTimeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_TIMEOUT_MS })),
    deadlineMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_TIMEOUT_MS })),
    delayMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_DELAY_MS })),
    retries: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_RETRIES })),
    backoffMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_BACKOFF_MS })),
    mode: Type.Optional(
      Type.Unsafe<"at_most_once" | "at_least_once">({
        type: "string",
        enum: ["at_most_once", "at_least_once"],
      }),
    ),
    cwd: Type.Optional(Type.String({ maxLength: 4_096 })),
    env: Type.Optional(
      Type.Record(Type.String(), Type.String({ maxLength: 32_768 }), { maxProperties: 256 }),
    ),
    invocation: Type.Optional(
      Type.String({
        maxLength: MAX_ENVELOPE_BYTES,
        description: "The caller's signature over this call (DSSE)",
      }),
    ),
    secrets: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: 64 }), {
        maxItems: MAX_FUNCTION_SECRETS,
        description:
          "Secrets of yours that somebody else's function may be given; your own function gets what it names",
      }),
    ),
    nested: Type.Optional(
      Type.Boolean({ description: "The function may submit tasks itself, by a token of the task's own" }),
    ),
  },
  { description: "What this call overrides of the function's definition" },
);
export const Target = Type.String({ minLength: 1, maxLength: 300 });
const Call = {
  args: Type.Optional(Type.Array(Type.Unknown(), { description: "Positional arguments" })),
  kwargs: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: "Named arguments" })),
  payload: Type.Optional(
    Strict(
      {
        digest: Digest,
        size: Type.Optional(Type.Integer({ minimum: 0 })),
        codec: Type.Unsafe<CodecName>({ type: "string", enum: ["json", "msgpack", "pickle"] }),
      },
      { description: "Instead of args and kwargs: a payload file that holds the encoded [args, kwargs]" },
    ),
  ),
  options: Type.Optional(Options),
};
export const SubmitSchema = Strict(
  {
    function: Type.Optional(Target),
    endpoint: Type.Optional(Target),
    group: Type.Optional(Uuid),
    ...Call,
    calls: Type.Optional(Type.Array(Strict(Call), { minItems: 1, maxItems: MAX_TASKS_PER_REQUEST })),
    tasks: Type.Optional(
      Type.Array(Strict({ function: Target, endpoint: Target, ...Call }), {
        minItems: 1,
        maxItems: MAX_TASKS_PER_REQUEST,
      }),
    ),
  },
  {
    description:
      "One call: function, endpoint, args, kwargs. Many calls of one function: function, endpoint, calls. Anything else: tasks, each with its function and endpoint.",
  },
);

export const Wait = Type.Number({
  minimum: 0,
  maximum: MAX_WAIT_S,
  default: 0,
  description: "Seconds to wait for the end",
});
export const View = Type.Unsafe<TaskView>({
  type: "object",
  description: "A task; fields are absent where there is nothing to say",
  required: ["id", "group", "endpoint", "state", "attempt", "submittedAt"],
  properties: {
    id: Type.String(),
    group: Type.String(),
    function: Type.String(),
    functionId: Digest,
    endpoint: Type.String(),
    endpointName: Type.String(),
    state: Type.String({ enum: [...STATES] }),
    reason: Type.String({ description: "Why it did not succeed" }),
    attempt: Type.Integer(),
    submittedAt: Time,
    startedAt: Time,
    finishedAt: Time,
    cancelRequested: Type.Boolean(),
    waiting: Type.Object(
      {
        for: Type.String(),
        code: Type.String({ enum: Object.keys(WAIT_CODES) }),
        message: Type.String(),
        since: Type.Optional(Time),
        until: Type.Optional(Time),
        estimatedStart: Type.Optional(Time),
      },
      { description: "Why it is not running yet: a code, and a sentence" },
    ),
    progress: Type.Object(
      { done: Type.Number(), total: Type.Optional(Type.Number()) },
      { description: "How far a running function says that it is (farloom.progress)" },
    ),
    result: Type.Unknown(),
    resultCodec: Type.String(),
    resultBytes: Type.Unknown({ description: "The result as it is, in base64 (MessagePack: bytes)" }),
    resultPayload: Type.Object({ digest: Digest, sizeBytes: Type.Integer(), codec: Type.String() }),
    error: Type.Object({
      type: Type.String(),
      message: Type.String(),
      traceback: Type.Optional(Type.String()),
    }),
    stdout: Type.String(),
    stderr: Type.String(),
    confirmed: Type.Boolean({
      description:
        "Of a task that was cancelled or ran out of time: whether it is certain that no process of it is left",
    }),
    late: Type.Object(
      { state: Type.String(), attempt: Type.Integer(), receivedAt: Time, result: Type.Unknown() },
      {
        description:
          "What its agent told after the task had ended without it; the state is not changed by it",
      },
    ),
    times: Type.Object({
      totalMs: Type.Number(),
      roadMs: Type.Number({ description: "On the way: service, network, database" }),
      queueMs: Type.Number({ description: "Waiting on the agent" }),
      runMs: Type.Number(),
      cpuMs: Type.Number(),
    }),
  },
});
export const Accepted = Type.Unsafe<Record<string, unknown>>({
  type: "object",
  description:
    "One call: id, group, state; with wait, the task. Several: group, ids in the order of the body; with wait, tasks",
  properties: {
    id: Type.String(),
    ids: Type.Array(Type.String()),
    group: Type.String(),
    state: Type.String(),
    tasks: Type.Array(View),
  },
});
export const Id = Type.Object({ id: Uuid });
