/**
 * Why a task waits, as the API says it: two replicas as processes, agents that a test scripts, and one real agent with
 * blocks of a real Slurm. The sentences themselves are in packages/protocol/src/why/why.test.ts.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type EndpointReport, type Frame, keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";
import { SlurmCluster, slurmMissing } from "../support/slurm/cluster.js";

const WAIT_MS = 60_000;
vi.setConfig({ testTimeout: 2 * WAIT_MS });
const PATIENCE = { timeout: WAIT_MS, interval: 100 };

const SPEAKING =
  "import os, time\ndef speak():\n    print('on', os.environ['SLURMD_NODENAME'])\n    time.sleep(60)\n";

let fabric: Fabric;
let service: ServiceProcess;
let other: ServiceProcess;
let endpoint: EchoEndpoint;
const fns: Record<string, string> = {};
const open: EchoAgent[] = [];

async function agent(window = 100): Promise<EchoAgent> {
  const connected = await EchoAgent.connect(service.url, endpoint, { onTask: () => undefined, window });
  open.push(connected);
  return connected;
}
const says = (peer: EchoAgent, report: Partial<EndpointReport>): void =>
  peer.peer.send({
    t: "report",
    report: { draining: false, nodes: 1, queued: 0, handed: 0, ...report },
  } as Frame);

async function submit(fn = "plain", more: Record<string, unknown> = {}, to = endpoint.name): Promise<string> {
  const made = await fabric
    .api(service.url)
    .post("/v1/tasks", { endpoint: to, function: fns[fn], args: [], ...more });
  expect(made.status, JSON.stringify(made.body)).toBeLessThan(300);
  return made.body.id as string;
}
const why = async (id: string, url = service.url) =>
  (await fabric.api(url).get(`/v1/tasks/${id}`)).body.waiting;
const becomes = (id: string, waiting: Record<string, unknown>, url = service.url) =>
  vi.waitFor(async () => expect(await why(id, url)).toMatchObject(waiting), PATIENCE);

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  other = await fabric.service();
  const definitions = {
    plain: {},
    greedy: { resources: { gpus: 9 } },
    failing: { retries: 1, backoffMs: 60_000 },
    speaking: { code: SPEAKING, entry: "speak" },
  };
  for (const [name, more] of Object.entries(definitions))
    fns[name] = (await fabric.register(service.url, { name, ...more })).toString("hex");
}, 2 * WAIT_MS);
let names = 0;
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric?.close(), 2 * WAIT_MS);

it("an endpoint without its agent: never there, and away since when", async () => {
  endpoint = await makeEchoEndpoint(fabric.api(service.url), `why-${++names}`);
  const id = await submit();
  expect(await why(id)).toMatchObject({ code: "endpoint_never_connected", for: "endpoint" });
  const peer = await agent();
  await peer.untilReceived(1);
  await peer.close();
  await becomes(id, { code: "endpoint_away", since: expect.any(String) as string });
});

it("a delay, a backoff, a place in the queue, and then nothing, as it runs", async () => {
  endpoint = await makeEchoEndpoint(fabric.api(service.url), `why-${++names}`);
  const delayed = await submit("plain", { options: { delayMs: 600_000 } });
  expect(await why(delayed)).toMatchObject({ code: "delayed", until: expect.any(String) as string });
  const peer = await agent(2);
  const failing = await submit("failing");
  peer.reply([(await peer.untilReceived(1))[0]!], { state: "FAILED" });
  await becomes(failing, { code: "backoff", message: expect.stringContaining("Attempt 2") as string });
  const ids = [await submit(), await submit(), await submit()];
  await peer.untilReceived(3);
  says(peer, { places: 2, handed: 2 });
  await becomes(ids[2]!, {
    code: "no_worker_free",
    message: expect.stringContaining("2 tasks wait before it") as string,
  });
  // What runs is not waited for as what waits is.
  const first = peer.received.find(({ key }) => keyToUuid(key) === ids[0])!;
  peer.peer.send({ t: "progress", ids: Buffer.from(first.key, "latin1"), kind: "started" });
  await becomes(ids[2]!, { message: expect.stringContaining("1 task waits before it") as string });
  expect(await why(ids[0]!)).toBeUndefined();
});

it("what the agent reports of its blocks and nodes, at whichever replica is asked", async () => {
  endpoint = await makeEchoEndpoint(fabric.api(service.url), `why-${++names}`);
  const peer = await agent();
  const id = await submit();
  const greedy = await submit("greedy");
  await peer.untilReceived(2);
  const pending = {
    state: "pending",
    reason: "Priority",
    detail: "job 17 waits: Priority",
    startsInMs: 3_600_000,
  } as const;
  says(peer, { provider: "slurm", nodes: 0, queued: 2, blocks: [pending] });
  for (const { url } of [service, other]) {
    await becomes(
      id,
      {
        code: "block_pending",
        message: expect.stringContaining("Slurm says: job 17 waits: Priority") as string,
        estimatedStart: expect.any(String) as string,
      },
      url,
    );
  }
  says(peer, {
    provider: "slurm",
    nodes: 1,
    handed: 2,
    places: 2,
    capacities: [{ places: 2, cores: 4, gpus: 2 }],
  });
  for (const { url } of [service, other]) await becomes(greedy, { code: "nothing_fits" }, url);
  expect(await why(id)).toMatchObject({ code: "no_worker_free" });
  says(peer, { draining: true });
  await becomes(id, { code: "endpoint_draining", for: "endpoint" });
  // What is no report is none: the connection stands.
  peer.peer.send({ t: "report", report: { blocks: 7, draining: 1 } } as unknown as Frame);
  await becomes(id, { code: expect.stringMatching(/^(no_worker_free|about_to_begin)$/) as string });
});

const without = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;

it.skipIf(slurmMissing !== undefined)(
  `a block that waits in a real Slurm: its reason, and then what the task writes on the compute node${without}`,
  async () => {
    const cluster = await SlurmCluster.start({ nodes: 1, cores: 1 });
    let agent: AgentProcess | undefined;
    try {
      // The only node is taken.
      const taken = await cluster.run(
        "sbatch",
        "--parsable",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 600",
      );
      await cluster.until(
        "the node is taken",
        async () => (await cluster.run("squeue", "-h", "-o", "%T")) === "RUNNING",
      );
      const stateDir = join(fabric.home, "agent-slurm");
      mkdirSync(stateDir, { mode: 0o700 });
      const blocks = "workers_per_node = 1\nmax_blocks = 1\nstatus_seconds = 1";
      writeFileSync(join(stateDir, "agent.toml"), `provider = "slurm"\ntrust = "off"\n[blocks]\n${blocks}\n`);
      const { PATH, SLURM_CONF } = cluster.env;
      agent = await fabric.agent(service.url, "slurm", [], { env: { PATH: PATH!, SLURM_CONF: SLURM_CONF! } });
      const id = await submit("speaking", {}, "slurm");
      await becomes(id, {
        code: "block_pending",
        message: expect.stringMatching(/Slurm says: job \d+ waits: (Resources|Priority)/) as string,
      });
      await cluster.run("scancel", taken);
      await vi.waitFor(async () => {
        const answer = await fetch(`${other.url}/v1/tasks/${id}/output?wait=5`, {
          headers: { authorization: `Bearer ${fabric.key}` },
        });
        expect([await answer.text(), answer.headers.get("farloom-more")]).toEqual(["on n1\n", "true"]);
      }, PATIENCE);
      // Now the agent knows what a node has.
      const greedy = await submit("greedy", {}, "slurm");
      const message = expect.stringContaining("needs 9 GPUs") as string;
      await becomes(greedy, { code: "nothing_fits", message });
    } finally {
      // Before the cluster goes, and with it whatever knows of it.
      await agent?.kill();
      await cluster.close();
    }
  },
  3 * WAIT_MS,
);
