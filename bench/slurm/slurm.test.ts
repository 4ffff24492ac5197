/**
 * `npm run bench:slurm`: what blocks on Slurm cost, on a real cluster of four virtual nodes on this machine, and in one
 * figure, said to be so, with pretended workers. Prints a table; fails where something did not work, never for being slow.
 *
 * The nodes claim four cores each and share this machine's: what is measured waits (sleeps, starts, looks), it does not
 * compute.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Farloom } from "@farloom/sdk";
import { afterAll, beforeAll, describe, it } from "vitest";
import { Fabric } from "../../test/support/fabric.js";
import { slurmMissing } from "../../test/support/slurm/cluster.js";
import { type SlurmEndpoint, SlurmFabric, until } from "../../test/support/slurm/slurm-fabric.js";
import { busyShare, describeMachine } from "../support/machine.mjs";
import { preciseCpuUs, processTree } from "../support/proc.mjs";
import { markdownTable, textTable } from "../support/report.mjs";
import { figure, timedSeconds } from "../support/stats.mjs";
import { PretendedNodes, PretendedSlurm } from "./simulated.js";

const LONG_MS = 600_000;
const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;
/** Published for funcX's agent, with as many real workers on Theta (Chard et al., funcX, HPDC 2020). */
const FUNCX_PER_S = 1_694;
const NAP = "import time\ndef nap(seconds):\n    time.sleep(seconds)\n    return seconds\n";

/** After so long a block's end counts as no failure of its start. */
const PROVEN_MS = 31_000;
/** The cluster's log of squeue's calls, a character for each. */
const CALLS = "squeue-calls";

type Figure = ReturnType<typeof figure>;
const figures: (Figure & { title: string })[] = [];
const tell = (section: string, ...found: Figure[]): void => {
  for (const one of found) {
    figures.push({ title: section, ...one });
    process.stderr.write(`${one.key} ${one.value} ${one.unit}\n`);
  }
};

let busy = 0;
beforeAll(async () => {
  busy = await busyShare();
});
afterAll(() => {
  const machine = describeMachine(0);
  const report = {
    date: new Date().toISOString().slice(0, 10),
    machine,
    figures,
    busy_beside: busy,
    failures: [],
  };
  process.stdout.write(`\n${textTable(report)}\n`);
  const page = process.env.FARLOOM_BENCH_MARKDOWN;
  if (page) writeFileSync(page, `${markdownTable(report)}\n`);
});

describe.skipIf(slurmMissing !== undefined)(`real blocks${title}`, () => {
  let place: SlurmFabric;
  let farloom: Farloom;

  beforeAll(async () => {
    place = await SlurmFabric.start({ nodes: 4, cores: 4 });
    await place.fabric.register(place.service.url, {
      name: "nap",
      code: NAP,
      entry: "nap",
      mode: "at_least_once",
    });
    farloom = new Farloom({ url: place.service.url, apiKey: place.fabric.key });
  }, LONG_MS);
  afterAll(async () => {
    await farloom?.close();
    await place?.close();
  }, LONG_MS);

  const nap = (endpoint: string, count: number, seconds: number) =>
    farloom.function<[number], number>("nap").map(
      Array.from({ length: count }, () => [seconds] as [number]),
      { endpoint },
    );

  it(
    "from 200 tasks on an idle endpoint to the first result",
    async () => {
      const endpoint = await place.endpoint(
        "cold",
        {},
        { workers_per_node: 4, max_blocks: 4, idle_seconds: 1 },
      );
      const own: number[] = [];
      const ours: number[] = [];
      for (let round = 0; round < 5; round++) {
        const file = join(place.cluster.home, `begun-${round}`);
        own.push(
          await timedSeconds(async () => {
            await place.cluster.run("sbatch", "--parsable", "--output=/dev/null", `--wrap=touch ${file}`);
            while (!existsSync(file)) await sleep(5);
          }),
        );
        await place.cluster.untilIdle();
        const start = performance.now();
        const group = nap("cold", 200, 0);
        for await (const _ of group.results()) {
          ours.push((performance.now() - start) / 1000);
          break;
        }
        await group.all();
        await until(async () => (await endpoint.jobs()).length === 0, "the blocks are gone");
        await place.cluster.untilIdle();
      }
      await endpoint.close();
      tell(
        "From nothing",
        figure("sbatch_start_s", "a job of sbatch's own, until its first command has run", "s", own),
        figure(
          "first_result_s",
          "200 tasks to an endpoint without a block, until the first result",
          "s",
          ours,
        ),
        figure(
          "first_result_over_sbatch_s",
          "the difference",
          "s",
          ours.map((one, i) => one - own[i]!),
        ),
      );
    },
    LONG_MS,
  );

  it(
    "1,000 tasks of one second on 4 nodes with 4 workers each",
    async () => {
      const blocks = { workers_per_node: 4, min_blocks: 4, max_blocks: 4 };
      const endpoint = await place.endpoint("wide", {}, blocks, { PATH: countedSqueue(place) });
      await until(
        async () => (await endpoint.jobs()).filter(({ state }) => state === "RUNNING").length === 4,
        "4 jobs",
      );
      await nap("wide", 64, 0.1).all();
      const seconds = await timedSeconds(() => nap("wide", 1_000, 1).all());
      const ideal = 1_000 / 16;
      tell(
        "Work",
        figure(
          "sleep1_efficiency",
          "1,000 tasks of 1 s on 16 workers, ideal ÷ measured",
          "",
          ideal / seconds,
          {
            note: `${seconds.toFixed(1)} s, where ${ideal} are ideal without a remainder`,
          },
        ),
      );
      await idleCost(endpoint);
      await endpoint.close();
    },
    LONG_MS,
  );

  it(
    "what a killed node ran begins elsewhere",
    async () => {
      const endpoint = await place.endpoint(
        "killed",
        {},
        { workers_per_node: 4, min_blocks: 2, max_blocks: 3 },
      );
      await endpoint.submit(4);
      await endpoint.begun(8);
      // A block that ends as soon as it has begun is asked for anew only after a wait.
      await sleep(PROVEN_MS);
      const [job] = await endpoint.jobs();
      const struck = performance.now();
      const before = endpoint.workers.length;
      await place.cluster.crashNode(job!.nodes);
      await endpoint.agent.line("a node is away");
      const told = performance.now();
      // Two of its four tasks may begin again.
      await until(() => endpoint.workers.length >= before + 2, "they have begun again");
      const begun = performance.now();
      endpoint.go();
      await endpoint.ended();
      await endpoint.close();
      place.cluster.startNode(job!.nodes);
      tell(
        "When a node dies",
        figure(
          "node_death_told_s",
          "from the loss of its power until the agent knows",
          "s",
          (told - struck) / 1000,
        ),
        figure(
          "rerun_after_told_s",
          "from there until what it ran runs elsewhere",
          "s",
          (begun - told) / 1000,
          {
            note: "the grace of 10 s in which a node may come back is part of it",
          },
        ),
      );
    },
    LONG_MS,
  );

  /** With idle blocks; squeue is counted by a script before it on the agent's PATH. */
  async function idleCost(endpoint: SlurmEndpoint): Promise<void> {
    await sleep(5_000);
    const seconds = 60;
    const own = processTree(endpoint.agent.pid).slice(0, 1);
    const looks = place.cluster.log(CALLS).length;
    const before = preciseCpuUs(own);
    const took = await timedSeconds(() => sleep(seconds * 1000));
    let us = 0;
    for (const [pid, now] of preciseCpuUs(own)) us += now - (before.get(pid) ?? 0);
    const after = place.cluster.log(CALLS).length;
    tell(
      "Doing nothing",
      figure(
        "agent_idle_core_percent",
        `the agent beside 4 idle blocks, over ${seconds} s`,
        "% of a core",
        us / took / 10_000,
      ),
      figure("squeue_per_10_s", "squeue for 4 blocks", "calls in 10 s", ((after - looks) / took) * 10),
    );
  }
});

describe("pretended workers", () => {
  const BLOCKS = 64;
  const WORKERS = 64;
  const TASKS = 100_000;

  it(
    `${BLOCKS * WORKERS} in ${BLOCKS} blocks, ${TASKS} tasks that do nothing`,
    async () => {
      const fabric = await Fabric.open();
      using slurm = new PretendedSlurm();
      try {
        const service = await fabric.service();
        const config = `provider = "slurm"\ntrust = "off"\n[blocks]\nworkers_per_node = ${WORKERS}\nmin_blocks = ${BLOCKS}\nmax_blocks = ${BLOCKS}\n`;
        const agent = await fabric.agent(service.url, "scale", [], { config, env: slurm.env });
        const nodes = new PretendedNodes(agent.stateDir, WORKERS);
        await until(async () => {
          await nodes.join();
          return (
            nodes.size === BLOCKS &&
            agent.lines.filter((line) => line.includes("a node came")).length === BLOCKS
          );
        }, "all nodes are there");
        await fabric.register(service.url, { name: "noop" });
        const farloom = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "scale" });
        const run = (count: number) =>
          farloom
            .function<[number], number>("noop")
            .map(Array.from({ length: count }, (_, i) => [i] as [number]))
            .all();
        await run(10_000);
        const rates: number[] = [];
        const cpu: number[] = [];
        for (let round = 0; round < 3; round++) {
          const own = processTree(agent.pid).slice(0, 1);
          const before = preciseCpuUs(own).get(agent.pid) ?? 0;
          rates.push(TASKS / (await timedSeconds(() => run(TASKS))));
          cpu.push(((preciseCpuUs(own).get(agent.pid) ?? 0) - before) / TASKS);
        }
        await farloom.close();
        await nodes.close();
        const who = `${(BLOCKS * WORKERS).toLocaleString("en-US")} pretended workers in ${BLOCKS} blocks`;
        tell(
          "Many workers, pretended",
          figure(
            "pretended_noop_per_s",
            `${TASKS.toLocaleString("en-US")} no-ops, ${who}`,
            "tasks/s",
            rates,
            { pick: "best" },
          ),
          figure("pretended_agent_us", "CPU of the agent for one of them", "µs", cpu),
          figure(
            "pretended_to_funcx",
            `÷ funcX's published ${FUNCX_PER_S.toLocaleString("en-US")}/s at its agent`,
            "",
            Math.max(...rates) / FUNCX_PER_S,
            {
              note: "another machine, and real workers there: an order of magnitude, no comparison",
            },
          ),
        );
      } finally {
        await fabric.close();
      }
    },
    LONG_MS,
  );
});

/** A PATH whose squeue leaves a mark at each call. */
function countedSqueue({ cluster }: SlurmFabric): string {
  const { PATH = "" } = cluster.env;
  const real = execFileSync("sh", ["-c", "command -v squeue"], { env: { PATH }, encoding: "utf8" }).trim();
  const folder = join(cluster.home, "counted");
  mkdirSync(folder);
  const script = `#!/bin/sh\nprintf x >> '${join(cluster.home, `${CALLS}.log`)}'\nexec ${real} "$@"\n`;
  writeFileSync(join(folder, "squeue"), script, { mode: 0o755 });
  return `${folder}:${PATH}`;
}
