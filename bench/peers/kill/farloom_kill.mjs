/**
 * Kill tests of Farloom with the products' default settings: a service with embedded PostgreSQL, an agent of two Python
 * workers, a client over the TypeScript SDK. KILL_MODE: at_most_once (the default of a function) or at_least_once.
 *
 * Killed: worker, the process that runs a task; executor, the agent, started again on its folder; broker, the service,
 * started again on its folder; database, PostgreSQL, which the service starts again; client, after
 * all its tasks were acknowledged: another process asks for the results by their ids.
 *
 * Counts as kill_common.py does, whose task this is; the last line of stdout is the result.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Farloom } from "@farloom/sdk";
import { killAndWait, Parts } from "./farloom_parts.mjs";
import { KILL_AFTER, TASKS } from "./farloom_task.mjs";

const DEADLINE_MS = 1000 * Number(process.env.KILL_DEADLINE_SECONDS ?? 50);
const mode = process.env.KILL_MODE ?? "at_most_once";
const [part, folder] = process.argv.slice(2);
const evidence = join(folder, "evidence");

const leftMs = () => Math.max(0, DEADLINE_MS - performance.now());

function readLines(path) {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => line.split(" "));
}

const startsOf = (lines) => lines.filter(([, word]) => word === "start");

async function until(what, holds) {
  while (!holds()) {
    if (leftMs() === 0) throw new Error(`${what} did not come in time`);
    await sleep(5);
  }
}

/** A process that runs a task right now, by its own evidence. */
function runningPid() {
  const running = new Map();
  for (const [n, word, pid] of readLines(evidence)) {
    if (word === "start") running.set(pid, n);
    else running.delete(pid);
  }
  return [...running.keys()].map(Number).find((pid) => existsSync(`/proc/${pid}`));
}

async function disturb(parts, client) {
  switch (part) {
    case "worker":
      await until("a running task", () => runningPid() !== undefined);
      return process.kill(runningPid() ?? parts.agentPid, "SIGKILL");
    case "executor":
      await killAndWait(parts.agentPid);
      return parts.startAgent();
    case "broker":
      await killAndWait(parts.servicePid);
      return parts.startService();
    case "database":
      return killAndWait(parts.postgresPid);
    case "client":
      return client.child.kill("SIGKILL");
    default:
      throw new Error(`no part "${part}"`);
  }
}

/** What another process is told of these tasks. */
async function fetchOutcomes(parts, acks) {
  const other = new Farloom({ url: parts.url, apiKey: parts.apiKey });
  const outcomes = new Map();
  while (outcomes.size < acks.size && leftMs() > 0) {
    for (const [n, id] of acks) {
      if (outcomes.has(n)) continue;
      const info = await other.tasks.get(id).catch(() => undefined);
      if (info?.state === "SUCCEEDED") outcomes.set(n, ["result", info.result]);
      else if (["FAILED", "CANCELLED", "TIMED_OUT", "LOST"].includes(info?.state))
        outcomes.set(n, ["failed", `${info.state} ${info.reason}`]);
    }
    await sleep(300);
  }
  await other.close({ timeoutMs: 1_000 });
  return outcomes;
}

function report(acknowledged, outcomes) {
  const all = [...outcomes.entries()];
  const wrong = all.filter(([n, [kind, value]]) => kind === "result" && value !== n * n);
  if (wrong.length > 0) throw new Error(`wrong results: ${JSON.stringify(wrong.slice(0, 5))}`);
  const starts = new Map();
  for (const [n] of startsOf(readLines(evidence))) starts.set(n, (starts.get(n) ?? 0) + 1);
  const failures = {};
  for (const [, [kind, why]] of all) if (kind === "failed") failures[why] = (failures[why] ?? 0) + 1;
  const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));
  const result = {
    version,
    acknowledged,
    results: all.filter(([, [kind]]) => kind === "result").length,
    failed: all.filter(([, [kind]]) => kind === "failed").length,
    lost: acknowledged - all.length,
    twice: [...starts.values()].filter((count) => count > 1).length,
    started: starts.size,
    failures,
    seconds: Math.round(performance.now() / 100) / 10,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
}

const parts = new Parts(folder);
await parts.startService();
await parts.enrol();
await parts.startAgent();
const client = parts.startClient(mode);
await until("the starts", () => startsOf(readLines(evidence)).length >= KILL_AFTER);
await until("the acknowledgements", () => readLines(join(folder, "acks")).length === TASKS);
await disturb(parts, client);
const acks = new Map(readLines(join(folder, "acks")).map(([n, id]) => [Number(n), id]));
const told = part === "client" ? undefined : await Promise.race([client.outcomes, sleep(leftMs())]);
report(acks.size, told ? new Map(told.entries()) : await fetchOutcomes(parts, acks));
