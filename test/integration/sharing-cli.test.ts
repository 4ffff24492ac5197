/** Sharing and narrow keys from the command line, against a real service: what a person types, and what scripts read. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { EchoAgent, makeEchoEndpoint } from "../support/echo-agent.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const START_MS = 60_000;
const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");

let rest: RestService;
let agent: EchoAgent;
let bob: RestClient;
beforeAll(async () => {
  rest = await startRestService();
  bob = new RestClient(rest.url, (await rest.api.post("/v1/keys", { label: "test", owner: "bob" })).body.key);
  agent = await EchoAgent.connect(rest.url, await makeEchoEndpoint(rest.api, "lab"));
  const code = "def f(*args):\n    return args\n";
  for (const name of ["f", "g"])
    await rest.api.post("/v1/functions", { name, runtime: "python", entry: "f", code });
}, START_MS);
afterAll(async () => {
  await agent?.close();
  await rest?.close();
});

async function farloom(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const env = {
    PATH: process.env.PATH,
    HOME: rest.stateDir,
    FARLOOM_URL: rest.url,
    FARLOOM_API_KEY: rest.key,
  };
  const child = spawn(process.execPath, [CLI, ...args], { env });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })));
}
/** What it prints with --json; it must have gone well. */
async function json(...args: string[]) {
  const ran = await farloom(...args, "--json");
  expect(ran, `${args.join(" ")}\n${ran.stderr}`).toMatchObject({ code: 0 });
  return JSON.parse(ran.stdout);
}

it(
  "makes a key for one function at one endpoint, lists it as such, and revokes it",
  async () => {
    const args = ["--label", "probe", "--endpoint", "lab", "--function", "f", "--days", "7"];
    const made = await json("keys", "create", ...args);
    expect(made).toMatchObject({ functions: ["me/f"], endpoints: [expect.any(String)] });
    const probe = new RestClient(rest.url, made.key);
    const call = (fn: string) =>
      probe.post("/v1/tasks?wait=30", { function: fn, endpoint: "lab", args: [1] });
    expect((await call("f")).body).toMatchObject({ state: "SUCCEEDED" });
    expect((await call("g")).body.code).toBe("FUNCTION_NOT_FOUND");
    expect(await json("keys", "list")).toContainEqual(
      expect.objectContaining({ id: made.id, functions: ["me/f"] }),
    );
    expect((await farloom("keys", "list")).stdout).toContain("me/f");
    expect(await json("keys", "revoke", made.id)).toEqual({ revoked: made.id });
    expect((await call("f")).status).toBe(401);
    expect((await farloom("keys", "create", "--days", "367")).code).toBe(2);
  },
  START_MS,
);

it(
  "shares an endpoint and a function with a team, shows it, and takes it back",
  async () => {
    await json("teams", "create", "crew");
    await json("teams", "add", "crew", "bob");
    expect((await json("teams", "show", "crew")).members.map((m: { name: string }) => m.name)).toEqual([
      "bob",
      "me",
    ]);
    const shared = await json("endpoint", "share", "lab", "--team", "crew", "--allow", "invoke");
    expect(shared).toEqual({ entries: [{ team: "me/crew", allow: "invoke" }], functions: [] });
    expect(await json("functions", "share", "f", "--team", "crew")).toMatchObject({
      visibility: "team",
      team: "me/crew",
    });
    const submit = async (fn: string) =>
      (await bob.post("/v1/tasks?wait=30", { function: fn, endpoint: "me/lab", args: [1] })).body;
    expect(await submit("me/f")).toMatchObject({ state: "SUCCEEDED", function: "me/f@1" });
    expect((await submit("me/g")).code).toBe("FUNCTION_NOT_FOUND");
    expect(await json("endpoint", "functions", "lab", "g")).toMatchObject({ functions: ["me/g"] });
    expect((await submit("me/f")).code).toBe("FUNCTION_NOT_ALLOWED");
    expect((await farloom("endpoint", "access", "lab")).stdout).toMatch(
      /team me\/crew +invoke[\s\S]*Runs me\/g\./,
    );
    expect(await json("endpoint", "functions", "lab")).toMatchObject({ functions: [] });
    await json("endpoint", "share", "lab", "--person", "bob", "--deny", "invoke");
    expect((await submit("me/f")).code).toBe("ACCESS_DENIED");
    await json("teams", "delete", "crew");
    expect((await submit("me/f")).code).toBe("FUNCTION_NOT_FOUND");
    expect((await farloom("endpoint", "share", "lab", "--person", "nobody", "--allow", "view")).code).toBe(3);
  },
  START_MS,
);
