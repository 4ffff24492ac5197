/** What a client makes of the service's words about a task: the `told` of its history. */
import { createHash } from "node:crypto";

/** Of a decoded result: the same value gives the same digest, whichever way it came. */
export function digestOf(value) {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
}

const OPEN = new Set(["QUEUED", "LEASED", "STARTED"]);

export function isOpen(state) {
  return OPEN.has(state);
}

/** A REST view of an ended task as a statement; `value` is its result where it was fetched. */
export function statementOf(view, value = view.result) {
  return {
    task: view.id,
    state: view.state,
    reason: view.reason ?? "none",
    attempt: view.attempt,
    via: "rest",
    ...(value !== undefined &&
      value !== null && { value: { nonce: value.nonce, sha: value.sha }, result: digestOf(value) }),
    ...saysOf(view.error?.message),
    ...(view.confirmed !== undefined && { confirmed: view.confirmed }),
    ...(view.late !== undefined && { late: true }),
  };
}

/** The functions' own errors end with the nonce: whose error it is. */
export function saysOf(message) {
  const says = /^(?:always|not yet): (\S+)$/.exec(message ?? "")?.[1];
  return says === undefined ? {} : { says };
}
