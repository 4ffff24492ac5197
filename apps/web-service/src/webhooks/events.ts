/**
 * What receivers are told: ids, names, states, reasons and times, never a value, an argument or what a function wrote, as an
 * address outside is no place for those. And who is told what.
 */
import { createHash } from "node:crypto";
import { reasonName, stateName } from "@farloom/protocol";

/** A webhook as replicas remember it. */
export interface Wish {
  readonly id: string;
  readonly ownerId: string;
  readonly events: readonly string[];
  readonly onlyFailed: boolean;
  readonly endpointId: string | null;
  readonly activeSinceMs: number;
}

/** A task that has ended. */
export interface EndedTask {
  readonly id: string;
  readonly ownerId: string;
  readonly groupId: string;
  readonly endpointId: string;
  readonly endpointName: string | null;
  readonly functionRef: string | null;
  readonly state: number;
  readonly reason: number;
  readonly attempt: number;
  readonly submittedAt: Date;
  readonly startedAt: Date | null;
  readonly finishedAt: Date;
  readonly runMs: number;
}

/** A group of which nothing is open. */
export interface EndedGroup {
  readonly id: string;
  readonly ownerId: string;
  readonly name: string;
  /** Of its last task: a group that goes on ends again, as another event. */
  readonly lastSeq: string;
  readonly finishedAt: Date;
  /** Tasks by state and endpoint. */
  readonly counts: readonly { readonly state: number; readonly endpointId: string; readonly tasks: number }[];
}

export interface NewDelivery {
  readonly id: string;
  readonly webhookId: string;
  readonly ownerId: string;
  readonly event: string;
  readonly subjectId: string;
  readonly body: string;
}

const SUCCEEDED = 1;
/** A deleted endpoint's row is named `name~id`. */
const nameOf = (endpoint: string): string => endpoint.split("~", 1)[0]!;

/** @param base the service's public URL, or nothing: links are paths then */
export function taskDeliveries(wishes: readonly Wish[], task: EndedTask, base: string): NewDelivery[] {
  return wishes
    .filter(
      (wish) =>
        wish.events.includes("task.done") &&
        task.finishedAt.getTime() >= wish.activeSinceMs &&
        !(wish.onlyFailed && task.state === SUCCEEDED) &&
        (wish.endpointId === null || wish.endpointId === task.endpointId),
    )
    .map((wish) => delivery(wish, ["task.done", task.id], taskBody(task, base)));
}

/** One with an endpoint is told of groups that had tasks there. */
export function groupDeliveries(wishes: readonly Wish[], group: EndedGroup, base: string): NewDelivery[] {
  const isGood = group.counts.every(({ state }) => state === SUCCEEDED);
  return wishes
    .filter(
      (wish) =>
        wish.events.includes("group.done") &&
        group.finishedAt.getTime() >= wish.activeSinceMs &&
        !(wish.onlyFailed && isGood) &&
        (wish.endpointId === null || group.counts.some(({ endpointId }) => endpointId === wish.endpointId)),
    )
    .map((wish) => delivery(wish, ["group.done", group.id, group.lastSeq], groupBody(group, base)));
}

export function pingDelivery(wish: { id: string; ownerId: string }, id: string, now: Date): NewDelivery {
  const body = { type: "ping", timestamp: now.toISOString(), data: { webhook: wish.id } };
  return {
    id,
    webhookId: wish.id,
    ownerId: wish.ownerId,
    event: "ping",
    subjectId: wish.id,
    body: JSON.stringify(body),
  };
}

/** The same event for the same webhook has the same id, whoever finds it and however often. */
function delivery(
  wish: Wish,
  what: readonly [event: string, subject: string, ...string[]],
  body: object,
): NewDelivery {
  const digest = createHash("sha256")
    .update([wish.id, ...what].join(" "))
    .digest()
    .subarray(0, 16);
  digest[6] = (digest[6]! & 0x0f) | 0x80;
  digest[8] = (digest[8]! & 0x3f) | 0x80;
  const hex = digest.toString("hex");
  const id = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join(
    "-",
  );
  const [event, subjectId] = what;
  return { id, webhookId: wish.id, ownerId: wish.ownerId, event, subjectId, body: JSON.stringify(body) };
}

function taskBody(task: EndedTask, base: string): object {
  return {
    type: "task.done",
    timestamp: task.finishedAt.toISOString(),
    data: {
      task: task.id,
      group: task.groupId,
      ...(task.functionRef === null ? {} : { function: task.functionRef }),
      endpoint: task.endpointId,
      ...(task.endpointName === null ? {} : { endpointName: nameOf(task.endpointName) }),
      state: stateName(task.state),
      ...(task.reason === 0 ? {} : { reason: reasonName(task.reason) }),
      attempt: task.attempt,
      submittedAt: task.submittedAt.toISOString(),
      ...(task.startedAt === null ? {} : { startedAt: task.startedAt.toISOString() }),
      finishedAt: task.finishedAt.toISOString(),
      runMs: task.runMs,
      link: `${base}/v1/tasks/${task.id}`,
    },
  };
}

function groupBody(group: EndedGroup, base: string): object {
  const states: Record<string, number> = {};
  let total = 0;
  for (const { state, tasks } of group.counts) {
    const name = stateName(state)!;
    states[name] = (states[name] ?? 0) + tasks;
    total += tasks;
  }
  return {
    type: "group.done",
    timestamp: group.finishedAt.toISOString(),
    data: {
      group: group.id,
      ...(group.name === "" ? {} : { name: group.name }),
      total,
      states,
      finishedAt: group.finishedAt.toISOString(),
      link: `${base}/v1/groups/${group.id}`,
    },
  };
}
