/** A whole fabric whose endpoint has blocks: the service decides what becomes of tasks whose node was killed. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { agentStatus } from "../../apps/endpoint-agent/src/agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";

const WAIT_MS = 60_000;
const NAP =
  "import os, time\ndef nap(path, seconds):\n    open(path, 'a').write('x')\n    time.sleep(seconds)\n    return seconds\n";

let fabric: Fabric;
let service: ServiceProcess;

beforeEach(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
});
afterEach(() => fabric.close());

async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  for (const end = performance.now() + WAIT_MS; !(await holds()); await sleep(100))
    if (performance.now() > end) throw new Error(`not within ${WAIT_MS} ms: ${what}`);
}

it("a killed node's tasks run on another where their mode allows it, and end LOST where not", async () => {
  const blocks =
    "workers_per_node = 2\nmin_blocks = 2\nmax_blocks = 2\nnode_grace_seconds = 1\nstatus_seconds = 0.5";
  const config = `provider = "process"\ntrust = "off"\n[blocks]\n${blocks}\n`;
  const { stateDir } = await fabric.agent(service.url, "cluster", [], { config });
  const api = fabric.api(service.url);
  const tasks: { readonly id: string; readonly path: string; readonly mode: string }[] = [];
  for (const mode of ["at_most_once", "at_least_once"]) {
    const fn = await fabric.register(service.url, { name: mode, code: NAP, entry: "nap", mode });
    for (const i of [0, 1]) {
      const path = join(fabric.home, `${mode}-${i}`);
      const made = await api.post("/v1/tasks", {
        endpoint: "cluster",
        function: fn.toString("hex"),
        args: [path, 5],
      });
      expect(made.status, JSON.stringify(made.body)).toBeLessThan(300);
      tasks.push({ id: made.body.id as string, path, mode });
    }
  }
  const runs = (path: string): number => {
    try {
      return readFileSync(path).length;
    } catch {
      return 0;
    }
  };
  await until(async () => tasks.every(({ path }) => runs(path) === 1), "all run");
  const answer = await agentStatus(stateDir);
  if (!answer.running) throw new Error("the agent does not run");
  const { blocks: there } = answer.status.blocks!;
  expect(there.flatMap((block) => block.nodes.map((node) => node.handed))).toEqual([2, 2]);
  // Every other way of ending a node tells somebody; this does not.
  const kept = JSON.parse(readFileSync(join(stateDir, "blocks/book.json"), "utf8"));
  process.kill(Number.parseInt(kept.blocks[0].providerId, 10), "SIGKILL");
  const state = async (id: string) => (await api.get(`/v1/tasks/${id}`)).body;
  await until(async () => {
    const all = await Promise.all(tasks.map(({ id }) => state(id)));
    return all.every((task) => !["QUEUED", "LEASED", "STARTED"].includes(task.state as string));
  }, "all have ended");
  let lost = 0;
  let again = 0;
  for (const { id, path, mode } of tasks) {
    const task = await state(id);
    if (task.state === "LOST") {
      lost++;
      expect([mode, task.reason, runs(path)]).toEqual(["at_most_once", "agent_lost", 1]);
    } else {
      expect(task.state).toBe("SUCCEEDED");
      expect(runs(path)).toBe(task.attempt);
      if (task.attempt === 2) {
        again++;
        expect(mode).toBe("at_least_once");
      }
    }
  }
  expect(lost + again).toBe(2);
}, 150_000);
