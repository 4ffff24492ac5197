/** Faults of processes: kill -9, SIGSTOP and SIGCONT, orderly stops. Each brings back what it took. */
import { setTimeout as sleep } from "node:timers/promises";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const target = (role) => (random, shape) => random.int(0, shape[role] - 1);
const aService = target("services");
const anAgent = target("agents");
const aClient = target("clients");
const all = (role, n) => Array.from({ length: n }, (_, i) => `${role}-${i}`);

/** Down, for a while, and up again; the fault is over once it is ready. */
async function killed(members, downMs) {
  await Promise.all(members.map((member) => member.kill()));
  await sleep(downMs);
  await Promise.all(members.map((member) => member.start()));
}

async function paused(member, ms) {
  member.pause();
  await sleep(ms);
  member.resume();
}

/** @type {Kind[]} */
export const PROCESS_KINDS = [
  {
    name: "service.kill",
    plan(random, shape) {
      const i = aService(random, shape);
      return { touches: [`service-${i}`], i, downMs: random.int(0, 4_000) };
    },
    run: (fabric, { i, downMs }) => killed([fabric.services[i]], downMs),
  },
  {
    name: "service.pause",
    plan(random, shape) {
      const i = aService(random, shape);
      // Above 12 s the other side takes the connection for dead.
      return { touches: [`service-${i}`], i, ms: random.pick([300, 2_000, 6_000, 14_000]) };
    },
    run: (fabric, { i, ms }) => paused(fabric.services[i], ms),
  },
  {
    name: "service.term",
    plan(random, shape) {
      const i = aService(random, shape);
      return { touches: [`service-${i}`], i };
    },
    async run(fabric, { i }) {
      const service = fabric.services[i];
      if (!(await service.term()))
        fabric.run.write("left", { what: `${service.name} did not drain within its time` });
      await service.start();
    },
  },
  {
    name: "services.kill",
    plan: (random, shape) => ({ touches: all("service", shape.services), downMs: random.int(0, 3_000) }),
    run: (fabric, { downMs }) => killed(fabric.services, downMs),
  },
  {
    name: "agent.kill",
    plan(random, shape) {
      const i = anAgent(random, shape);
      return { touches: [`agent-${i}`], i, downMs: random.int(0, 5_000) };
    },
    run: (fabric, { i, downMs }) => killed([fabric.agents[i]], downMs),
  },
  {
    name: "agent.pause",
    plan(random, shape) {
      const i = anAgent(random, shape);
      return { touches: [`agent-${i}`], i, ms: random.pick([300, 2_000, 6_000, 14_000]) };
    },
    run: (fabric, { i, ms }) => paused(fabric.agents[i], ms),
  },
  {
    name: "agent.term",
    plan(random, shape) {
      const i = anAgent(random, shape);
      return { touches: [`agent-${i}`], i, downMs: random.int(0, 2_000) };
    },
    async run(fabric, { i, downMs }) {
      const agent = fabric.agents[i];
      if (!(await agent.term()))
        fabric.run.write("left", { what: `${agent.name} did not drain within its time` });
      await sleep(downMs);
      await agent.start();
    },
  },
  {
    // The agent with its workers: a machine that fell, but for its boot id.
    name: "agent.kill-tree",
    plan(random, shape) {
      const i = anAgent(random, shape);
      return { touches: [`agent-${i}`], i, downMs: random.int(0, 3_000) };
    },
    async run(fabric, { i, downMs }) {
      const workers = fabric.workers(i);
      const agent = fabric.agents[i];
      const dead = agent.kill();
      for (const { pid } of workers) kill(pid, "SIGKILL");
      await dead;
      await sleep(downMs);
      await agent.start();
    },
  },
  {
    // Away for longer than its leases stand.
    name: "agent.away",
    plan(random, shape) {
      const i = anAgent(random, shape);
      return { touches: [`agent-${i}`], i, beyondMs: random.int(1_000, 5_000) };
    },
    run: (fabric, { i, beyondMs }) => killed([fabric.agents[i]], fabric.reclaimMs + beyondMs),
  },
  {
    name: "worker.kill",
    plan: (random, shape) => ({
      touches: [],
      i: anAgent(random, shape),
      which: random.int(0, 7),
      times: random.int(1, 3),
    }),
    async run(fabric, { i, which, times }) {
      for (let n = 0; n < times; n++) {
        const workers = fabric.workers(i);
        if (workers.length > 0) kill(workers[which % workers.length].pid, "SIGKILL");
        await sleep(300);
      }
    },
  },
  {
    name: "worker.pause",
    plan: (random, shape) => ({
      touches: [],
      i: anAgent(random, shape),
      which: random.int(0, 7),
      ms: random.int(200, 4_000),
    }),
    async run(fabric, { i, which, ms }) {
      const workers = fabric.workers(i);
      if (workers.length === 0) return;
      const { pid } = workers[which % workers.length];
      kill(pid, "SIGSTOP");
      await sleep(ms);
      kill(pid, "SIGCONT");
    },
  },
  {
    name: "client.kill",
    plan(random, shape) {
      const i = aClient(random, shape);
      return { touches: [`client-${i}`], i, downMs: random.int(0, 3_000) };
    },
    run: (fabric, { i, downMs }) => killed([fabric.clients[i]], downMs),
  },
  {
    name: "client.pause",
    plan(random, shape) {
      const i = aClient(random, shape);
      return { touches: [`client-${i}`], i, ms: random.pick([500, 4_000, 14_000]) };
    },
    run: (fabric, { i, ms }) => paused(fabric.clients[i], ms),
  },
  {
    name: "everything.kill",
    plan: (random, shape) => ({
      touches: [...all("service", shape.services), ...all("agent", shape.agents)],
      downMs: random.int(0, 2_000),
    }),
    run: (fabric, { downMs }) => killed([...fabric.services, ...fabric.agents], downMs),
  },
];

function kill(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended meanwhile.
  }
}
