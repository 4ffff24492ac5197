// What a function needs of its endpoint's Python is compared when tasks are submitted, whatever client submits them.
import type { AgentInfo } from "@farloom/protocol";
import { afterAll, beforeAll, expect, it } from "vitest";
import { FakeAgent } from "../support/fake-agent.js";
import { LinkClient } from "../support/link-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const PYTHONS: AgentInfo["pythons"] = {
  default: { version: "3.11.2", program: "python3", packages: { numpy: "1.26.4" } },
  torch: {
    version: "3.12.1",
    program: "/torch/bin/python",
    cloudpickle: "3.1.0",
    packages: { torch: "2.4.1+cu121" },
  },
};

let rest: RestService;
let agents: FakeAgent[];

beforeAll(async () => {
  rest = await startRestService();
  const echo = () => ({ value: "done" });
  agents = [
    await FakeAgent.start(rest.api, "local", echo, { pythons: PYTHONS, pythonsOf: "nodes" }),
    // Its nodes are other machines: nobody knows what they have.
    await FakeAgent.start(rest.api, "cluster", echo, { pythons: PYTHONS }),
  ];
});
afterAll(async () => {
  for (const agent of agents) await agent.close();
  await rest.close();
});

const register = async (name: string, env: object, more: object = { code: "def f(): pass\n" }) => {
  const { body, status } = await rest.api.post("/v1/functions", { name, runtime: "python", env, ...more });
  expect([status, body.message]).toEqual([201, undefined]);
  return body as { id: string };
};
const submit = async (fn: string, endpoint = "local") => {
  const call = { function: fn, endpoint, args: [] };
  const { status, body } = await rest.api.post("/v1/tasks", { tasks: [call] });
  return status === 202 || status === 201
    ? "taken"
    : [status, body.error?.code ?? body.code, JSON.stringify(body)];
};

it("packages, environments and pickles that the endpoint's Python cannot have are refused, with the cure", async () => {
  await register("fits", { requires: ["numpy>=1.20,<2"] });
  await register("old", { requires: ["numpy>=2", "scipy"] });
  await register("named", { interpreter: "torch", requires: ["torch~=2.1"] });
  await register("nowhere", { interpreter: "jax" });
  await register("own", { interpreter: "conda:jax", requires: ["jax"] });
  const pickle = { format: "pickle", code: Buffer.from("pickled").toString("base64") };
  await register("pickled", { python: "3.11" }, pickle);
  await register("pickled-in-torch", { python: "3.12", interpreter: "torch" }, pickle);
  await register("pickled-elsewhere", { python: "3.9", interpreter: "torch" }, pickle);
  for (const name of ["fits", "named", "own", "pickled-in-torch"])
    expect([name, await submit(name)]).toEqual([name, "taken"]);
  const refusals: [string, string][] = [
    [
      "old",
      "requires numpy>=2, there is 1.26.4; scipy, which is not there in its environment default (python3, Python 3.11.2)",
    ],
    ["nowhere", "there is no environment jax whose Python starts; there are default, torch"],
    ["pickled", "which python3 there has not. On that machine: python3 -m pip install cloudpickle"],
    ["pickled-elsewhere", "is a pickle of Python 3.9, and /torch/bin/python there is Python 3.12.1"],
  ];
  for (const [name, cure] of refusals) {
    const [status, code, body] = await submit(name);
    expect([status, code]).toEqual([422, "ENVIRONMENT_MISMATCH"]);
    expect(body).toContain(cure);
    expect([name, await submit(name, "cluster")]).toEqual([name, "taken"]);
  }
});

it("a link's tasks are compared too, again where they did not fit, and for others nothing is asked", async () => {
  const lacks = await register("lacks", { requires: ["pandas"] });
  const fits = await register("has", { requires: ["numpy"] });
  const client = await LinkClient.connect(rest.url, rest.key);
  try {
    const { endpointId } = agents[0]!;
    for (const id of [lacks.id, fits.id, lacks.id, fits.id])
      client.submit({ endpointId, fn: Buffer.from(id, "hex"), args: [Buffer.from("[[],{}]")] });
    await client.untilDurable();
    expect(client.refusals.map(({ code, from }) => [code, from])).toEqual([
      ["ENVIRONMENT_MISMATCH", 1],
      ["ENVIRONMENT_MISMATCH", 3],
    ]);
    await client.peer.until(() => client.outcomes.size === 2, "two outcomes");
  } finally {
    await client.close();
  }
});

it("a text that names no package is refused when the function is registered", async () => {
  const body = { name: "bad", runtime: "python", code: "def f(): pass\n", env: { requires: ["numpy>"] } };
  const { status, body: said } = await rest.api.post("/v1/functions", body);
  expect([status, JSON.stringify(said)]).toEqual([
    expect.any(Number),
    expect.stringContaining("no package as pip names them"),
  ]);
  expect(status).toBe(422);
});
