/**
 * The end of a fabric: everything is stopped as an operator would stop it, and what is left behind is found and named.
 *
 *   E1  After quiet an agent holds nothing: a task that it still has, or a result, is a lease that was left.
 *   E2  A stop that takes longer than its grace is told.
 *   E3  Every process carries the run's folder in its environment: none may remain, but for warm workers, which outlive
 *       an agent on purpose and for a minute only.
 *   E4  No log has a secret of ours, by the forms of test/support/secret-patterns.json.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { unmountDisk } from "./machine.mjs";
import { processesWith } from "./ports.mjs";

const SECRET_FORMS = new URL("../../support/secret-patterns.json", import.meta.url);
const HELD = ["waiting", "queued", "handed", "done"];
/** The last acknowledgements may be on their way. */
const SETTLE_MS = 5_000;

/** @typedef {import("./fabric.mjs").FaultFabric} FaultFabric */

/**
 * Resolves with what was left behind.
 * @param {FaultFabric} fabric
 * @returns {Promise<string[]>}
 */
export async function endFabric(fabric, { links, ownsPostgres, disks }) {
  const all = [...links];
  const left = [];
  for (const client of fabric.clients) await client.kill();
  for (const link of all) link.heal();
  await Promise.all(fabric.agents.map((_, i) => endAgent(fabric, i, left)));
  for (const service of fabric.services) {
    if (!(await service.term())) left.push(`${service.name} did not stop within its time`); // E2
  }
  for (const worker of fabric.workers()) kill(worker.pid);
  await fabric.redis?.kill();
  await sleep(300);
  left.push(...secretsIn(join(fabric.folder, "logs"))); // E4
  const ofPostgres = join(fabric.folder, "postgres");
  for (const { pid, command } of processesWith(fabric.folder)) {
    if (command.includes(ofPostgres)) continue;
    left.push(`process ${pid}: ${command}`); // E3
    kill(pid);
  }
  for (const link of all) await link.close();
  if (ownsPostgres) await fabric.postgres?.stop().catch((error) => left.push(`PostgreSQL: ${error.message}`));
  else if (fabric.database) await fabric.postgres.dropDatabase(fabric.database);
  for (const dir of disks) unmountDisk(dir);
  return left;
}

/** The logs that have a secret, and of which kind. Random bytes alone are no form: what breaks here may write any. */
function secretsIn(folder) {
  const forms = JSON.parse(readFileSync(SECRET_FORMS, "utf8")).filter(
    ({ kind }) => kind !== "32 random bytes",
  );
  return readdirSync(folder).flatMap((name) => {
    const text = readFileSync(join(folder, name), "latin1");
    const found = forms.filter(({ pattern }) => new RegExp(pattern).test(text));
    return found.map(({ kind }) => `${kind} in the log ${name}`);
  });
}

async function endAgent(fabric, i, left) {
  const agent = fabric.agents[i];
  if (agent.isPaused) agent.resume();
  const until = performance.now() + SETTLE_MS;
  let held = agent.isUp ? await heldBy(fabric, i) : [];
  while (held.length > 0 && performance.now() < until) {
    await sleep(250);
    held = await heldBy(fabric, i);
  }
  for (const text of held) left.push(`${agent.name} still has ${text}`); // E1
  if (!(await agent.term())) left.push(`${agent.name} did not stop within its time`);
}

async function heldBy(fabric, i) {
  const status = await fabric.agentStatus(i);
  if (status === undefined) return [];
  const tasks = HELD.filter((name) => status.tasks[name] > 0).map(
    (name) => `${status.tasks[name]} tasks ${name}`,
  );
  return status.unackedResults > 0 ? [...tasks, `${status.unackedResults} results unacknowledged`] : tasks;
}

function kill(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}
