/**
 * After the faults: waits until everything that was acknowledged has ended, then reads all of it again, from every
 * replica, by its owner and, some of it, by a stranger. What it is told goes into a history as any client's does.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Recorder, readHistories } from "../record.mjs";
import { isOpen, statementOf } from "./statements.mjs";

const IDS_AT_ONCE = 200;
const STRANGER_SAMPLE = 20;
const TRIES = 20;

/** @typedef {import("../topology/fabric.mjs").FaultFabric} FaultFabric */

/** Ids of everything that a client was acknowledged. */
export function acknowledgedIds(folder) {
  return [...new Set(readHistories(folder).flatMap(({ ev, task }) => (ev === "acked" ? [task] : [])))];
}

/**
 * Waits until every acknowledged task has its end, by the word of the first service that answers. Resolves with how
 * many were still open when the time was over.
 * @param {FaultFabric} fabric
 */
export async function untilQuiet(fabric, { timeoutMs = 120_000 } = {}) {
  let ids = acknowledgedIds(fabric.folder);
  const until = performance.now() + timeoutMs;
  while (ids.length > 0 && performance.now() < until) {
    const still = [];
    for (let at = 0; at < ids.length; at += IDS_AT_ONCE * 5) {
      const page = ids.slice(at, at + IDS_AT_ONCE * 5);
      try {
        const { tasks } = await fabric.request(0, "POST", "/v1/tasks/status", { ids: page });
        still.push(...tasks.filter(({ state }) => isOpen(state)).map(({ id }) => id));
      } catch {
        still.push(...page);
      }
    }
    ids = still;
    if (ids.length > 0) await sleep(300);
  }
  return ids.length;
}

/**
 * Reads every acknowledged task from every replica, and a sample of them as a stranger.
 * @param {FaultFabric} fabric
 */
export async function auditAll(fabric, { name = "audit" } = {}) {
  const history = new Recorder(join(fabric.folder, "history", `${name}.jsonl`));
  const ids = acknowledgedIds(fabric.folder);
  for (let replica = 0; replica < fabric.services.length; replica++) {
    for (let at = 0; at < ids.length; at += IDS_AT_ONCE) {
      await auditPage(fabric, history, replica, ids.slice(at, at + IDS_AT_ONCE));
    }
  }
  const step = Math.max(1, Math.floor(ids.length / STRANGER_SAMPLE));
  for (let i = 0; i < ids.length; i += step) {
    const path = `/v1/tasks/${ids[i]}`;
    const reply = await fabric
      .request(0, "GET", path, undefined, { key: fabric.strangerKey })
      .catch(() => {});
    if (reply !== undefined) history.write("leak", { task: ids[i] });
  }
  history.close();
  return ids.length;
}

async function auditPage(fabric, history, replica, ids) {
  const ask = (path, method = "POST", json = undefined) =>
    withTries(() => fabric.request(replica, method, path, json));
  const { tasks, missing } = await ask("/v1/tasks/status", "POST", { ids, results: true });
  for (const view of tasks) {
    if (isOpen(view.state)) {
      history.write("open", { task: view.id, state: view.state, replica });
      continue;
    }
    const value = view.resultPayload ? await ask(`/v1/tasks/${view.id}/result`, "GET") : view.result;
    history.write("told", { ...statementOf(view, value), replica });
  }
  for (const task of missing) history.write("missing", { task, replica });
}

/** A replica may just be coming back. */
async function withTries(work) {
  for (let i = 1; ; i++) {
    try {
      return await work();
    } catch (error) {
      if (i === TRIES) throw error;
      await sleep(250);
    }
  }
}
