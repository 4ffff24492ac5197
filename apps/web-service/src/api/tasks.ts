/** Submitting tasks, looking at them, waiting for them, cancelling them. */
import {
  CODEC_REFERENCE,
  codecName,
  decodeReference,
  FarloomError,
  type IdKey,
  keyToUuid,
  stateName,
  type TaskOptions,
  type TaskState,
  TERMINAL_STATES,
  uuidToKey,
} from "@farloom/protocol";
import { crashPoint } from "@farloom/protocol/testing";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { sentRaw } from "../http/media-types.js";
import { principalOf } from "../http/policy.js";
import { authorise, requireWide } from "../identity/authorise.js";
import { requireGroup } from "../identity/nested.js";
import { readLateResult } from "../store/late-results.js";
import { readTombstones } from "../store/tombstones.js";
import { TaskGroups } from "../tasks/groups.js";
import { Idempotency } from "../tasks/idempotency.js";
import { TaskReader, type TaskRow } from "../tasks/reader.js";
import { MAX_TASKS_PER_REQUEST, Submission, type TaskBody } from "../tasks/submission.js";
import { lateView, lightView, type TaskView, type ViewOptions, wholeView } from "../tasks/view.js";
import { MAX_WAIT_S, Waiting } from "../tasks/waiting.js";
import { sendFile } from "./payloads.js";
import { NextCursor, numberCursor, PageQuery, problems, Strict, Uuid } from "./schemas.js";
import { taskOutputRoutes } from "./task-output.js";
import { Accepted, Id, STATES, SubmitSchema, Target, View, Wait } from "./task-schemas.js";

const tags = ["tasks"];
const Result = sentRaw("application/json", "application/msgpack", "application/octet-stream");
/** Ids in one status request. */
const MAX_STATUS_IDS = 1_000;
/** Whole tasks in one reply: with 64 KiB of result each, some 13 MiB. */
const MAX_WHOLE = 200;
const MAX_IDEMPOTENCY_KEY = 200;

export function taskRoutes(app: Api, deps: AppDeps): void {
  const { tenants, dispatch, functions, endpoints, payloads, intake, identity, reach } = deps;
  const reader = new TaskReader(tenants, dispatch);
  const waiting = new Waiting(deps.deliver, reader, deps.holding);
  const groups = new TaskGroups(tenants);
  const idempotency = new Idempotency(tenants);
  const { secretUse } = deps;
  const submission = new Submission({
    ...{ functions, endpoints, payloads, secretUse, intake, groups, idempotency, reader },
  });

  const optionsOf = (request: FastifyRequest): ViewOptions => ({
    msgpack: request.wantsMsgpack,
  });

  /** Those of the keys that the caller may name. @throws FarloomError NESTED_SCOPE */
  const within = (request: FastifyRequest, keys: readonly IdKey[]): Promise<IdKey[]> =>
    reach.within(principalOf(request), keys);

  /** The one task, or why there is none. */
  const one = async (
    request: FastifyRequest,
    reply: FastifyReply,
    id: string,
    waitS: number,
  ): Promise<TaskRow> => {
    const keys = await within(request, [uuidToKey(id)!]);
    if (keys.length === 0) throw new FarloomError("TASK_NOT_FOUND", { id });
    const rows = await waiting.read(request, keys, {
      waitS,
      whole: true,
      reply,
    });
    if (rows[0]) return rows[0];
    const [stone] = await readTombstones(tenants, principalOf(request).ownerId, [uuidToKey(id)!]);
    if (!stone) throw new FarloomError("TASK_NOT_FOUND", { id });
    throw new FarloomError("TASK_EXPIRED", {
      id,
      state: stateName(stone.state)!,
      finishedAt: stone.finished_at.toISOString(),
    });
  };

  /** The task with everything; where it ended without its agent, also with what that told later. */
  const withLate = async (request: FastifyRequest, row: TaskRow): Promise<TaskView> => {
    const options = optionsOf(request);
    const view = wholeView(reader, row, options);
    if (row.state === null || row.state < TERMINAL_STATES.CANCELLED) return view;
    const late = await readLateResult(tenants, principalOf(request).ownerId, uuidToKey(row.id)!);
    if (late) view.late = lateView(late, options);
    return view;
  };

  app.post(
    "/v1/tasks",
    {
      config: { policy: { scope: "tasks:submit", nested: true, narrow: true }, audit: false },
      onResponse: (_request, _reply, done) => {
        crashPoint("service.rest.after-reply");
        done();
      },
      schema: {
        tags,
        summary: "Submit one call, or many; with wait, the result comes in the same reply",
        headers: Type.Object({
          "idempotency-key": Type.Optional(
            Type.String({
              minLength: 1,
              maxLength: MAX_IDEMPOTENCY_KEY,
              description: "The same key with the same body is the same submission, however often it is sent",
            }),
          ),
        }),
        querystring: Strict({ wait: Wait }),
        body: SubmitSchema,
        response: { 200: View, 202: Accepted, ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const { wait } = request.query;
      if (wait > 0) authorise(principal, "tasks:read");
      const { nested } = principal;
      const group = request.body.group ?? nested?.groupId;
      if (group !== undefined) requireGroup(principal, uuidToKey(group));
      const key = request.headers["idempotency-key"];
      const tasks = tasksOf(request.body as SubmitBody);
      const { groupId, keys, endpointKeys } = await submission.submit(principal, {
        tasks,
        group,
        msgpack: request.headers["content-type"]?.includes("msgpack") ?? false,
        idempotency: key === undefined ? undefined : { key, bodyDigest: request.bodyDigest! },
      });
      const single = request.body.calls === undefined && request.body.tasks === undefined;
      crashPoint("service.rest.before-reply");

      if (wait === 0) {
        reply.code(202);
        if (!single) return { group: groupId, ids: keys.map(keyToUuid) };
        const taskKey = keys[0]!;
        const state = endpointKeys
          ? dispatch.liveState(endpointKeys[0]!, taskKey)
          : await reader
              .read(principal.ownerId, [taskKey], false)
              .then(([row]) => (row ? reader.stateOf(row) : "QUEUED"));
        return { id: keyToUuid(taskKey), group: groupId, state };
      }
      const whole = keys.length <= MAX_WHOLE;
      const rows = await waiting.read(request, keys, { waitS: wait, whole, reply });
      const views = viewsInOrder(keys, rows, (row) =>
        (whole ? wholeView : lightView)(reader, row, optionsOf(request)),
      );
      const ended = rows.every((row) => row.state !== null);
      reply.code(ended ? 200 : 202);
      return single ? views[0]! : { group: groupId, ids: keys.map(keyToUuid), tasks: views };
    },
  );

  app.get(
    "/v1/tasks",
    {
      config: { policy: { scope: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "List your tasks, the newest first, without results",
        querystring: Strict({
          ...PageQuery,
          state: Type.Optional(
            Type.String({
              maxLength: 200,
              description: `One or several of ${STATES.join(", ")}, with commas`,
            }),
          ),
          endpoint: Type.Optional(Target),
          function: Type.Optional(Target),
          group: Type.Optional(Uuid),
        }),
        response: { 200: Type.Object({ items: Type.Array(View), nextCursor: NextCursor }), ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { state, endpoint, function: fn, cursor, limit } = request.query;
      const group = request.query.group ?? principal.nested?.groupId;
      if (group !== undefined) requireGroup(principal, uuidToKey(group));
      const { rows, nextCursor } = await reader.list(principal.ownerId, {
        states: state === undefined ? undefined : statesOf(state),
        endpointId: endpoint === undefined ? undefined : (await endpoints.resolve(principal, endpoint)).id,
        functionKey: fn === undefined ? undefined : (await functions.resolve(principal, fn)).key,
        groupId: group,
        cursor: numberCursor(cursor),
        limit,
      });
      return {
        items: (await reach.filter(principal, rows)).map((row) => lightView(reader, row)),
        ...(nextCursor === undefined ? {} : { nextCursor }),
      };
    },
  );

  app.get(
    "/v1/tasks/:id",
    {
      config: { policy: { scope: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "Show a task, with its result; with wait, once it has ended",
        params: Id,
        querystring: Strict({ wait: Wait }),
        response: { 200: View, ...problems },
      },
    },
    async (request, reply) =>
      withLate(request, await one(request, reply, request.params.id, request.query.wait)),
  );

  app.get(
    "/v1/tasks/:id/result",
    {
      config: { policy: { scope: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "The result's bytes as the function gave them, large ones too",
        params: Id,
        querystring: Strict({ wait: Wait }),
        response: { 200: Result, ...problems },
      },
      // One made from this would read the file to count its bytes.
      exposeHeadRoute: false,
    },
    async (request, reply) => {
      const { id } = request.params;
      const row = await one(request, reply, id, request.query.wait);
      if (row.state === null) throw new FarloomError("RESULT_NOT_READY", { id }, { retryAfterMs: 1_000 });
      if (row.state !== TERMINAL_STATES.SUCCEEDED) {
        throw new FarloomError("RESULT_NONE", { id, state: stateName(row.state)! });
      }
      const codec = codecName(row.codec) ?? "unknown";
      reply.header("farloom-codec", codec).type(CONTENT_TYPES[codec] ?? "application/octet-stream");
      // Over the bytes here, or, of a large result, over the reference to them (P25).
      if (row.result_sha256) reply.header("farloom-seal", row.result_sha256.toString("hex"));
      if (!(row.codec & CODEC_REFERENCE)) return reply.send(row.result);
      const { digest } = decodeReference(row.result!)!;
      const { ownerId } = principalOf(request);
      const shared = async (error: unknown) => {
        const otherId = await deps.sharedPayloads.ownerForSubmitter(ownerId, digest);
        if (otherId === undefined) throw error;
        return payloads.open(otherId, digest);
      };
      const file = await payloads
        .open(ownerId, digest)
        .catch(shared)
        .catch((error: unknown) => {
          throw error instanceof FarloomError
            ? new FarloomError("RESULT_EXPIRED", { id }, { cause: error })
            : error;
        });
      return sendFile(request, reply, file);
    },
  );

  taskOutputRoutes(app, deps, (request, reply, id) => one(request, reply, id, 0));

  app.post(
    "/v1/tasks/status",
    {
      config: { policy: { scope: "tasks:read", nested: true, narrow: true }, audit: false },
      schema: {
        tags,
        summary: `Show up to ${MAX_STATUS_IDS} tasks at once; with wait, once all have ended`,
        body: Strict({
          ids: Type.Array(Uuid, { minItems: 1, maxItems: MAX_STATUS_IDS }),
          wait: Type.Optional(Type.Number({ minimum: 0, maximum: MAX_WAIT_S })),
          results: Type.Optional(
            Type.Boolean({ description: `With results and output; for at most ${MAX_WHOLE} ids` }),
          ),
        }),
        response: {
          200: Type.Object({
            tasks: Type.Array(View, { description: "In the order of ids" }),
            missing: Type.Array(Type.String(), { description: "Ids of which you have no task" }),
          }),
          ...problems,
        },
      },
    },
    async (request, reply) => {
      const { ids, wait = 0, results = false } = request.body;
      if (results && ids.length > MAX_WHOLE) {
        throw new FarloomError("REQUEST_INVALID", {
          detail: `results come for at most ${MAX_WHOLE} ids at once`,
        });
      }
      const keys = [...new Set(ids.map((id) => uuidToKey(id)!))];
      const rows = await waiting.read(request, await within(request, keys), {
        waitS: wait,
        whole: results,
        reply,
      });
      const options = optionsOf(request);
      const tasks = viewsInOrder(keys, rows, (row) =>
        (results ? wholeView : lightView)(reader, row, options),
      );
      const found = new Set(tasks.map((task) => task.id));
      return { tasks, missing: keys.map(keyToUuid).filter((id) => !found.has(id)) };
    },
  );

  app.post(
    "/v1/tasks/:id/token",
    {
      config: { policy: { agent: true }, audit: false },
      schema: {
        tags,
        summary: "For agents: a token of the running task's own, for its function to submit tasks with",
        params: Id,
        response: {
          200: Type.Object({
            token: Type.String(),
            expiresInMs: Type.Integer(),
            endpoint: Type.String(),
            group: Type.String({ description: "The group of all that the task submits" }),
          }),
          ...problems,
        },
      },
    },
    async (request) => identity.nested.issue(request.agent!, request.params.id.toLowerCase(), deps.leases),
  );

  app.post(
    "/v1/tasks/:id/cancel",
    {
      config: { policy: { scope: "tasks:cancel", nested: true, narrow: true }, audit: "tasks.cancel" },
      schema: {
        tags,
        summary:
          "Cancel a task: at once if no agent has it, else its agent is asked to stop it. Where it ends CANCELLED, `confirmed` says whether it is certain that no process of it is left",
        params: Id,
        querystring: Strict({ wait: Wait }),
        response: { 202: View, ...problems },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const row = await one(request, reply, id, 0);
      if (row.state !== null) throw new FarloomError("NOT_CANCELLABLE", { id, state: stateName(row.state)! });
      await dispatch.cancel([uuidToKey(id)!]);
      reply.code(202);
      return lightView(reader, await one(request, reply, id, request.query.wait));
    },
  );

  app.post(
    "/v1/tasks/cancel",
    {
      config: { policy: { scope: "tasks:cancel", nested: true, narrow: true }, audit: "tasks.cancel" },
      schema: {
        tags,
        summary: "Cancel several tasks, or all open ones of a group",
        body: Strict({
          ids: Type.Optional(Type.Array(Uuid, { minItems: 1, maxItems: MAX_TASKS_PER_REQUEST })),
          group: Type.Optional(Uuid),
        }),
        response: {
          202: Type.Object({
            requested: Type.Integer({ description: "Open tasks that were told to end" }),
            finished: Type.Integer({ description: "Tasks that had ended before" }),
            missing: Type.Array(Type.String()),
          }),
          ...problems,
        },
      },
    },
    async (request, reply) => {
      const { ownerId } = principalOf(request);
      const { ids, group } = request.body;
      request.audited = { target: group ?? "", detail: { tasks: ids?.length } };
      reply.code(202);
      if ((ids === undefined) === (group === undefined)) {
        throw new FarloomError("REQUEST_INVALID", { detail: "the body has either ids or group" });
      }
      if (ids !== undefined) {
        const keys = [...new Set(ids.map((id) => uuidToKey(id)!))];
        const rows = await reader.read(ownerId, await within(request, keys), false);
        const open = rows.filter((row) => row.state === null).map((row) => uuidToKey(row.id)!);
        if (open.length > 0) await dispatch.cancel(open);
        const found = new Set(rows.map((row) => row.id));
        const missing = keys.map(keyToUuid).filter((id) => !found.has(id));
        return { requested: open.length, finished: rows.length - open.length, missing };
      }
      requireWide(principalOf(request), "cancelling a whole group");
      requireGroup(principalOf(request), uuidToKey(group!));
      const counts = await reader.countGroup(ownerId, group!);
      if (!counts && !(await groups.find(ownerId, group!)))
        throw new FarloomError("GROUP_NOT_FOUND", { id: group! });
      const requested = await cancelGroup(deps, reader, ownerId, group!);
      return { requested, finished: (counts?.total ?? 0) - (counts?.open ?? 0), missing: [] };
    },
  );
}

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  json: "application/json; charset=utf-8",
  msgpack: "application/msgpack",
};

interface SubmitBody extends Partial<TaskBody> {
  calls?: Omit<TaskBody, "function" | "endpoint">[];
  tasks?: TaskBody[];
  options?: TaskOptions;
}

/** The three forms of a body as one. @throws FarloomError REQUEST_INVALID where they are mixed. */
function tasksOf(body: SubmitBody): TaskBody[] {
  const { function: fn, endpoint, calls, tasks } = body;
  const own = body.args ?? body.kwargs ?? body.payload ?? body.options;
  if (tasks !== undefined) {
    if (fn ?? endpoint ?? calls ?? own)
      throw mixed("tasks stands alone: each has its own function, endpoint and arguments");
    return tasks;
  }
  if (fn === undefined || endpoint === undefined)
    throw mixed(`body has no ${fn === undefined ? "function" : "endpoint"}`);
  if (calls === undefined) return [body as TaskBody];
  if (own !== undefined) throw mixed("with calls, arguments and options stand in each call");
  return calls.map((call) => ({ ...call, function: fn, endpoint }));
}

function mixed(detail: string): FarloomError {
  return new FarloomError("REQUEST_INVALID", { detail });
}

function statesOf(text: string): TaskState[] {
  const states = text.split(",");
  const bad = states.find((state) => !STATES.includes(state));
  if (bad === undefined) return states as TaskState[];
  throw new FarloomError("REQUEST_INVALID", {
    detail: `query.state has ${JSON.stringify(bad)}, not one of ${STATES.join(", ")}`,
  });
}

function viewsInOrder(
  keys: readonly IdKey[],
  rows: readonly TaskRow[],
  view: (row: TaskRow) => TaskView,
): TaskView[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  return keys.flatMap((key) => {
    const row = byId.get(keyToUuid(key));
    return row ? [view(row)] : [];
  });
}

/** In pages, so that a group of a million costs no memory. */
async function cancelGroup(
  deps: AppDeps,
  reader: TaskReader,
  ownerId: string,
  groupId: string,
): Promise<number> {
  let requested = 0;
  for (let afterSeq = 0; ; ) {
    const page = await reader.openOfGroup(ownerId, groupId, 10_000, afterSeq);
    if (page.length === 0) return requested;
    await deps.dispatch.cancel(page.map(({ key }) => key));
    requested += page.length;
    afterSeq = page.at(-1)!.seq;
  }
}
