/** An agent that runs some functions alone: a real one, with real workers, under a service that sends it everything. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";
import type { Reply, RestClient } from "../support/rest-client.js";

const START_MS = 90_000;
/** Says in a file that it ran, and how often. */
const CODE = `
def NAME(path, seconds=0):
    import time
    with open(path, "a") as file:
        file.write("NAME ")
    time.sleep(seconds)
    return "NAME"
`;

let fabric: Fabric;
let service: ServiceProcess;
let api: RestClient;
let agent: AgentProcess;
let evidence: string;
const ids: Record<string, string> = {};

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  api = fabric.api(service.url);
  evidence = join(fabric.home, "evidence");
  writeFileSync(evidence, "");
  for (const name of ["named", "known", "other"]) {
    const code = CODE.replaceAll("NAME", name);
    ids[name] = (await api.post("/v1/functions", { name, runtime: "python", entry: name, code })).body.id;
  }
  const args = ["--workers", "1", "--allow-function", "me/named", "--allow-function", ids.known!];
  agent = await fabric.agent(service.url, "strict", args);
}, START_MS);
afterAll(() => fabric?.close(), START_MS);

const run = async (fn: string): Promise<Reply["body"]> =>
  (await api.post("/v1/tasks?wait=60", { function: fn, endpoint: "strict", args: [evidence] })).body;

it(
  "runs what its list names, by id or by name, and answers for the rest without running it",
  async () => {
    expect(await run("named")).toMatchObject({ state: "SUCCEEDED", result: "named" });
    expect(await run("known")).toMatchObject({ state: "SUCCEEDED", result: "known" });
    const refused = await run("other");
    expect(refused).toMatchObject({
      state: "FAILED",
      reason: "not_authorised",
      error: { type: "FUNCTION_NOT_ALLOWED" },
    });
    expect(refused.error.message).toContain(
      "The endpoint strict runs some functions alone, and me/other@1 is not",
    );
    expect(readFileSync(evidence, "utf8")).toBe("named known ");
  },
  START_MS,
);

it(
  "takes every name of the same code: one that is allowed is enough",
  async () => {
    const code = CODE.replaceAll("NAME", "other");
    const again = await api.post("/v1/functions", {
      name: "named.too",
      runtime: "python",
      entry: "other",
      code,
    });
    expect(again.body.id).toBe(ids.other);
    await agent.stop();
    // The flags name neither; the file is read where no flag is given, so a second agent proves the file's way too.
    const free = await fabric.agent(service.url, "by-file", ["--workers", "1"]);
    expect(
      (await api.post("/v1/tasks?wait=60", { function: "other", endpoint: "by-file", args: [evidence] })).body
        .state,
    ).toBe("SUCCEEDED");
    await free.stop();
    writeFileSync(join(free.stateDir, "agent.toml"), 'allow_functions = ["me/named.*"]\n');
    await free.restart();
    const call = (fn: string) =>
      api.post("/v1/tasks?wait=60", { function: fn, endpoint: "by-file", args: [evidence] });
    expect((await call("known")).body).toMatchObject({ state: "FAILED", reason: "not_authorised" });
    expect((await call("named.too")).body).toMatchObject({ state: "SUCCEEDED" });
  },
  START_MS,
);

it(
  "asks its list again for what its journal holds, when it comes back with another",
  async () => {
    const third = await fabric.agent(service.url, "journal", ["--workers", "1"]);
    const submit = async (fn: string, seconds: number) =>
      (await api.post("/v1/tasks", { function: fn, endpoint: "journal", args: [evidence, seconds] })).body
        .id as string;
    const runs = await submit("known", 4);
    const state = async (id: string) => (await api.get(`/v1/tasks/${id}?wait=60`)).body;
    await expect
      .poll(async () => (await api.get(`/v1/tasks/${runs}`)).body.state, { timeout: 30_000 })
      .toBe("STARTED");
    writeFileSync(evidence, "");
    const calls = Array.from({ length: 300 }, () => ({ args: [evidence, 0] }));
    const batch = { function: "other", endpoint: "journal", calls };
    const others = (await api.post("/v1/tasks", batch)).body.ids as string[];
    const last = await submit("known", 0);
    await expect
      .poll(async () => (await api.get(`/v1/tasks/${last}`)).body.state, { timeout: 30_000 })
      .toBe("LEASED");
    await third.kill();
    writeFileSync(join(third.stateDir, "agent.toml"), `allow_functions = ["${ids.known}"]\n`);
    await third.restart();
    expect(await state(last)).toMatchObject({ state: "SUCCEEDED", result: "known" });
    const ended = (await api.post("/v1/tasks/status", { ids: others, wait: 60 })).body
      .tasks as Reply["body"][];
    const ran = ended.filter((task) => task.state === "SUCCEEDED").length;
    const refused = ended.filter((task) => task.reason === "not_authorised").length;
    // What its worker had already is the worker's: it outlives the agent.
    expect(ran + refused).toBe(300);
    expect(refused).toBeGreaterThan(200);
    expect(readFileSync(evidence, "utf8").split("other").length - 1).toBe(ran);
  },
  START_MS,
);
