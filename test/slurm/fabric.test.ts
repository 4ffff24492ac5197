/**
 * A whole fabric over a real cluster while each thing breaks that can: what becomes of tasks that run and of tasks that
 * wait, in both modes, and of the jobs. For each fault an endpoint with blocks of its own; those that strike one endpoint
 * alone strike at the same time, those that strike all come after.
 *
 *   1. Nothing is lost: every task ends; `at_least_once` succeeds, whatever happens.
 *   2. `at_most_once` never begins twice, and ends otherwise than well only where it was handed out when it was struck.
 *   3. A fault that need not cost anything costs nothing.
 *   4. When the agent has stopped there is no job of it, and when all is over no process of a job.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { freePort } from "../support/fabric.js";
import { slurmMissing } from "../support/slurm/cluster.js";
import {
  type EndedTask,
  MODES,
  type SlurmEndpoint,
  SlurmFabric,
  type Table,
  until,
} from "../support/slurm/slurm-fabric.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;
const NODES = 9;
/** Two of each mode run, two of each wait. */
const OF_EACH = 4;
/** Endpoints that start and are struck at the same time. */
const AT_ONCE = 6;
const RUN_MS = 300_000;

let place: SlurmFabric;

interface Fault {
  readonly name: string;
  /** What it costs: nothing, or the runs of tasks that were struck. */
  readonly costs: "nothing" | "runs";
  readonly slurm?: () => Table;
  readonly blocks?: Table;
  /** Its nodes reach the agent by way of a proxy. */
  readonly proxied?: true;
  /** From the end of the strike on, tasks may end. */
  readonly strike: (endpoint: SlurmEndpoint, proxy: TcpProxy) => Promise<void>;
}

const firstJob = async (endpoint: SlurmEndpoint) => (await endpoint.jobs())[0]!;
/** A process may have run several tasks, and end with another. */
const kill = (pids: readonly number[], signal: NodeJS.Signals) => {
  for (const pid of new Set(pids)) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
};
/** What a node runs goes on until Slurm kills it: a task that may end meanwhile has not been struck. */
const nodeGone = (endpoint: SlurmEndpoint) => endpoint.agent.line("a node is gone");
const TWO_BLOCKS = { max_blocks: 2 };
const NEVER_BEGINS: Table = { scheduler_options: ["--begin=now+1hour"] };

const OF_ONE: readonly Fault[] = [
  {
    name: "the power of a block's only node fails",
    costs: "runs",
    slurm: () => place.only("n1", "n2"),
    blocks: { workers_per_node: 4 },
    strike: async (endpoint) => {
      const { nodes } = await firstJob(endpoint);
      await place.cluster.crashNode(nodes);
    },
  },
  {
    name: "the power of the second node of a block fails",
    costs: "runs",
    slurm: () => place.only("n3", "n4"),
    blocks: { nodes_per_block: 2 },
    strike: () => place.cluster.crashNode("n4"),
  },
  {
    name: "the power of the node fails that the batch script runs on",
    costs: "runs",
    slurm: () => place.only("n5", "n6"),
    blocks: { nodes_per_block: 2 },
    strike: async () => {
      await place.cluster.crashNode("n5");
      await place.cluster.until("Slurm has seen it", async () =>
        (
          await place.cluster.run("sinfo", "--noheader", "--nodes=n5", "--partition=main", "--format=%T")
        ).startsWith("down"),
      );
      place.cluster.startNode("n5");
    },
  },
  {
    name: "a node program is killed",
    costs: "runs",
    strike: async (endpoint) => kill(endpoint.nodePrograms(await firstJob(endpoint)), "SIGKILL"),
    blocks: TWO_BLOCKS,
  },
  {
    name: "the workers are killed",
    costs: "runs",
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => kill(endpoint.workers, "SIGKILL"),
  },
  {
    name: "somebody cancels the job",
    costs: "runs",
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => {
      await place.cluster.run("scancel", (await firstJob(endpoint)).id);
      await nodeGone(endpoint);
    },
  },
  {
    name: "an operator has the job begun anew",
    costs: "runs",
    slurm: () => ({ requeue: true }),
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => {
      await place.cluster.run("scontrol", "requeue", (await firstJob(endpoint)).id);
      await nodeGone(endpoint);
    },
  },
  {
    name: "the job is preempted, and ends",
    costs: "runs",
    slurm: () => ({ partition: "scavenge", scheduler_options: ["--nodelist=n7"] }),
    blocks: TWO_BLOCKS,
    strike: (endpoint) => preempt("n7", endpoint),
  },
  {
    name: "the job is preempted, and waits to begin anew",
    costs: "runs",
    slurm: () => ({ partition: "scavenge", requeue: true, scheduler_options: ["--nodelist=n8"] }),
    blocks: TWO_BLOCKS,
    strike: (endpoint) => preempt("n8", endpoint),
  },
  {
    name: "the job's time is up",
    costs: "runs",
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => {
      const { id } = await firstJob(endpoint);
      await place.cluster.run("scontrol", "update", `JobId=${id}`, "EndTime=now+1");
      await until(async () => (await endpoint.jobs()).every((job) => job.id !== id), "it is over");
    },
  },
  {
    name: "the walltime comes near",
    costs: "nothing",
    blocks: { ...TWO_BLOCKS, walltime_seconds: 60, drain_before_seconds: 52 },
    strike: async (endpoint) => void (await endpoint.agent.line("it is drained")),
  },
  {
    name: "a node program stops for some seconds",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => {
      const pids = endpoint.nodePrograms(await firstJob(endpoint));
      kill(pids, "SIGSTOP");
      await sleep(4_000);
      kill(pids, "SIGCONT");
    },
  },
  {
    name: "a node program stops until it is given up, and then goes on",
    costs: "runs",
    blocks: { ...TWO_BLOCKS, node_grace_seconds: 1 },
    strike: async (endpoint) => {
      const pids = endpoint.nodePrograms(await firstJob(endpoint));
      kill(pids, "SIGSTOP");
      await nodeGone(endpoint);
      kill(pids, "SIGCONT");
    },
  },
  {
    name: "the agent is killed and started again",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    strike: async (endpoint) => {
      await endpoint.agent.kill();
      await sleep(1_000);
      await endpoint.agent.restart();
    },
  },
  {
    name: "connections between nodes and agent are cut",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    proxied: true,
    strike: async (_, proxy) => proxy.cut(),
  },
  {
    name: "the network forgets the connections between nodes and agent",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    proxied: true,
    strike: async (endpoint, proxy) => {
      proxy.forget();
      await endpoint.agent.line("a node is back");
    },
  },
];

/** Every endpoint feels these; they come one after the other, when what strikes one alone is over. */
const OF_ALL: readonly Fault[] = [
  {
    name: "the controller answers nobody for a while",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    strike: async () => {
      place.cluster.freezeController();
      await sleep(8_000);
      place.cluster.thawController();
    },
  },
  {
    name: "the service is killed and started again",
    costs: "nothing",
    blocks: TWO_BLOCKS,
    strike: async () => {
      await place.service.kill();
      await sleep(1_000);
      await place.service.restart();
    },
  },
  {
    // The last: what it has not written down yet it forgets, and then the jobs are ended that it does not know.
    name: "the controller is killed, and comes back",
    costs: "nothing",
    strike: async () => {
      await place.cluster.killController();
      await sleep(2_000);
      await place.cluster.startController();
    },
  },
];

/** A job that nothing else may run beside, for a moment. */
async function preempt(node: string, endpoint: SlurmEndpoint): Promise<void> {
  const { run } = place.cluster;
  const options = ["--partition=main", `--nodelist=${node}`, "--exclusive", "--output=/dev/null"];
  const printed = await run.call(place.cluster, "sbatch", "--parsable", ...options, "--wrap=sleep 2");
  await until(
    async () =>
      (await run.call(place.cluster, "squeue", "--noheader", `--jobs=${printed}`, "--format=%T")) !==
      "PENDING",
    "the stronger job has begun",
  );
  await nodeGone(endpoint);
}

/** One fault against an endpoint of its own, from its first task to the end of its last job. */
async function runFault(fault: Fault, name: string, turn: Promise<unknown>): Promise<EndedTask[]> {
  const port = await freePort();
  const proxy = await TcpProxy.open([port]);
  const detour: Table = fault.proxied ? { port, callback: [new URL(proxy.url).host] } : {};
  const {
    max_blocks: max = 1,
    nodes_per_block: nodes = 1,
    workers_per_node: workers = 2,
  } = fault.blocks ?? {};
  const places = Number(max) * Number(nodes) * Number(workers);
  const endpoint = await place.endpoint(name, fault.slurm?.(), {
    // A machine that is busy for a moment is no fault; and what is lost need not be waited for.
    node_grace_seconds: fault.costs === "nothing" ? 30 : 2,
    ...fault.blocks,
    ...detour,
  });
  try {
    await endpoint.submit(OF_EACH);
    await endpoint.begun(places);
    await turn;
    await fault.strike(endpoint, proxy);
    endpoint.go();
    return await endpoint.ended();
  } finally {
    await endpoint.close();
    await proxy.close();
  }
}

function expectOutcomes(tasks: readonly EndedTask[], costs: Fault["costs"]): void {
  expect(tasks).toHaveLength(OF_EACH);
  for (const task of tasks) {
    const what = JSON.stringify(task);
    if (costs === "nothing" || task.mode === "at_least_once") expect(task.state, what).toBe("SUCCEEDED");
    if (task.mode === "at_most_once" || costs === "nothing")
      expect(task.runs.length, what).toBeLessThanOrEqual(1);
    if (task.state === "SUCCEEDED") expect(task.runs.length, what).toBeGreaterThan(0);
    if (task.state !== "SUCCEEDED") {
      expect([task.state, task.reason], what).toBeOneOf([
        ["LOST", "agent_lost"],
        ["LOST", "worker_died"],
        ["FAILED", "worker_died"],
      ]);
    }
    expect(task.runs.length, what).toBeLessThanOrEqual(task.attempt);
  }
  // The fault has struck what it was to strike.
  if (costs === "runs") {
    const struck = tasks.filter(({ state, attempt }) => state !== "SUCCEEDED" || attempt > 1);
    expect(struck.length, JSON.stringify(tasks)).toBeGreaterThan(0);
  }
}

describe.skipIf(slurmMissing !== undefined)(`a fabric over Slurm${title}`, () => {
  const runs = new Map<Fault, Promise<EndedTask[]>>();

  beforeAll(async () => {
    place = await SlurmFabric.start({ nodes: NODES });
    const settled = (run: Promise<unknown>) => run.catch(() => undefined);
    const lines = Array.from({ length: AT_ONCE }, () => Promise.resolve<unknown>(undefined));
    OF_ONE.forEach((fault, i) => {
      const run = lines[i % AT_ONCE]!.then(() => runFault(fault, `one-${i}`, Promise.resolve()));
      lines[i % AT_ONCE] = settled(run);
      runs.set(fault, run);
    });
    let turn: Promise<unknown> = Promise.all(lines);
    OF_ALL.forEach((fault, i) => {
      const before = turn;
      // They start together and are struck in turn.
      const run = Promise.all(lines).then(() => runFault(fault, `all-${i}`, before));
      turn = settled(run);
      runs.set(fault, run);
    });
  }, RUN_MS);
  afterAll(async () => {
    await Promise.allSettled(runs.values());
    await place?.close();
  }, RUN_MS);

  describe.each([...OF_ONE, ...OF_ALL])("when $name", (fault) => {
    it.each(MODES)(
      "%s",
      async (mode) => {
        const tasks = await runs.get(fault)!;
        const ofMode = tasks.filter((task) => task.mode === mode);
        expectOutcomes(ofMode, fault.costs);
      },
      RUN_MS,
    );
  });

  it(
    "tasks that are cancelled while their block waits take its job with them",
    async () => {
      const endpoint = await place.endpoint("cancelled", NEVER_BEGINS, { idle_seconds: 1 });
      try {
        await endpoint.submit(1);
        await until(async () => (await firstJob(endpoint))?.state === "PENDING", "the block waits");
        await endpoint.cancel();
        expect((await endpoint.ended()).map(({ state, runs }) => [state, runs])).toEqual([
          ["CANCELLED", []],
          ["CANCELLED", []],
        ]);
        await until(async () => (await endpoint.jobs()).length === 0, "the job is gone");
      } finally {
        await endpoint.close();
      }
    },
    RUN_MS,
  );

  it(
    "an agent that stops for good while its block waits leaves no job",
    async () => {
      const endpoint = await place.endpoint("stopped", NEVER_BEGINS);
      await endpoint.submit(1);
      await until(async () => (await firstJob(endpoint))?.state === "PENDING", "the block waits");
      await endpoint.close();
    },
    RUN_MS,
  );
});
