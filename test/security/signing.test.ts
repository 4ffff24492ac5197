/** Signing as people do it: keys, functions, calls and trust, by command line and SDK, over a real service and agent. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeSignKey, signFunction } from "@farloom/protocol";
import { Farloom } from "@farloom/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";
import { RestClient } from "../support/rest-client.js";

const START_MS = 90_000;
const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");

let fabric: Fabric;
let service: ServiceProcess;
let api: RestClient;
let agent: AgentProcess;
let plain: Farloom;
let signing: Farloom;
let home: string;

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  api = fabric.api(service.url);
  agent = await fabric.agent(service.url, "strict", ["--workers", "1", "--trust", "enforce"]);
  home = join(fabric.home, "person");
  mkdirSync(home);
  plain = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "strict" });
}, START_MS);
afterAll(async () => {
  await plain?.close();
  await signing?.close();
  await fabric?.close();
}, START_MS);

async function farloom(args: readonly string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [CLI, ...args, "--json"], {
    env: {
      PATH: process.env.PATH,
      HOME: home,
      FARLOOM_URL: service.url,
      FARLOOM_API_KEY: fabric.key,
      FARLOOM_AGENT_STATE_DIR: agent.stateDir,
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  return { code, stderr, json: stdout === "" ? undefined : JSON.parse(stdout) };
}

async function ok(...args: string[]) {
  const ran = await farloom(args);
  expect(ran, `${args.join(" ")}\n${ran.stderr}`).toMatchObject({ code: 0 });
  return ran.json;
}

const source = (name: string) => ({
  name,
  runtime: "python" as const,
  entry: "f",
  code: `def f(x):\n    return ["${name}", x]\n`,
});

describe("a person with a key", () => {
  let publicKey: string;

  it(
    "makes it, for nobody else to read, and never a second one over it",
    async () => {
      const made = await ok("keys", "sign-key", "create", "--comment", "ada");
      publicKey = made.publicKey;
      expect(publicKey).toMatch(/^ed25519:[A-Za-z0-9+/]{43}= ada$/);
      expect(statSync(made.path).mode & 0o777).toBe(0o600);
      expect((await farloom(["keys", "sign-key", "create"])).code).toBe(7);
    },
    START_MS,
  );

  it(
    "is told how to cure it where the endpoint trusts nobody yet, and nothing runs",
    async () => {
      const fn = await plain.register(source("plain"));
      await expect(fn.call([1])).rejects.toThrow(/nobody has signed it.*farloom endpoint trust add/);
      const answer = (
        await api.post("/v1/tasks?wait=30", { function: "plain", endpoint: "strict", args: [1] })
      ).body;
      expect(answer).toMatchObject({
        state: "FAILED",
        reason: "not_authorised",
        error: { type: "FUNCTION_UNTRUSTED" },
      });
    },
    START_MS,
  );

  it(
    "signs what is registered already, and it runs once the endpoint trusts the key, without a restart",
    async () => {
      const file = join(home, "other.py");
      writeFileSync(file, "def f(x):\n    return 1\n");
      expect((await farloom(["functions", "sign", "plain", "--file", file])).stderr).toMatch(
        /is not that of/,
      );
      const signed = await ok("functions", "sign", "plain");
      expect(signed.ref).toBe("me/plain@1");
      await expect(plain.function("plain").call([1])).rejects.toThrow(
        /no signature is by a key in trust.toml/,
      );
      const trust = await ok("endpoint", "trust", "add", publicKey, "--function", "me/*");
      expect(trust).toMatchObject({
        mode: "off",
        keys: [{ name: "ada", functions: ["me/*"], invokes: ["me/*"] }],
      });
      expect(await ok("endpoint", "trust", "check", "plain")).toMatchObject({
        isTrusted: true,
        signer: "ada",
      });
      await expect
        .poll(() => plain.function("plain").call([1]).catch(String), { timeout: 20_000 })
        .toEqual(["plain", 1]);
    },
    START_MS,
  );

  it(
    "registers and signs at once, by command line and SDK; the same again adds no signature",
    async () => {
      const file = join(home, "signed.py");
      writeFileSync(file, "def signed(x):\n    return x + 1\n");
      await ok("functions", "register", file, "--sign");
      expect(await ok("functions", "signatures", "signed")).toMatchObject([{ name: "me/signed@1" }]);
      expect(await plain.function("signed").call([1])).toBe(2);
      const signKey = join(home, ".config/farloom/sign-keys/default.pem");
      signing = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "strict", signKey });
      const spec = {
        ...source("sdk"),
        retries: 1,
        timeoutMs: 60_000,
        env: { vars: { A: "1" } },
        resources: { cores: 1 },
      };
      await signing.register(spec);
      const fn = await signing.register(spec);
      expect((await signing.functions.signatures(fn.ref)).items).toHaveLength(1);
      expect(await fn.call([1])).toEqual(["sdk", 1]);
    },
    START_MS,
  );

  it(
    "calls what takes code as arguments with a signature, and nobody does without",
    async () => {
      const path = join(fabric.home, "shell");
      const shell = { name: "shell", runtime: "command" as const, command: { argv: ["sh", "-c", "{0}"] } };
      const fn = await signing.register(shell);
      await fn.call([`printf x >> ${path}`]);
      await signing
        .function("shell")
        .map([[`printf y >> ${path}`], [`printf y >> ${path}`]])
        .all();
      const env = { LANG: "C", NAME: "ü" };
      await fn.call([`printf z >> ${path}`], { env, cwd: fabric.home });
      expect(readFileSync(path, "utf8")).toBe("xyyz");
      await expect(plain.function("shell").call([`rm ${path}`])).rejects.toThrow(
        /nobody has signed this call/,
      );
      expect(existsSync(path)).toBe(true);
      const large = await signing.register(source("large"));
      const result = (await large.call(["a".repeat(100_000)], { env })) as string[];
      expect(result[1]).toHaveLength(100_000);
    },
    START_MS,
  );

  it(
    "is trusted no more as soon as the key is gone",
    async () => {
      await ok("endpoint", "trust", "remove", "ada");
      await expect
        .poll(() => plain.function("plain").call([1]).catch(String), { timeout: 20_000 })
        .toMatch(/no signature is by a key/);
    },
    START_MS,
  );
});

describe("the service", () => {
  it(
    "keeps envelopes about this function alone, of whoever may use it, and 16 of each",
    async () => {
      const { id } = (await api.post("/v1/functions", source("kept"))).body;
      const sign = (more: object = {}) =>
        signFunction({ function: id, name: "me/kept@1", created: 1, ...more }, makeSignKey());
      const add = (envelope: string, by = api) => by.post("/v1/functions/kept/signatures", { envelope });
      const first = sign();
      expect((await add(first)).status).toBe(201);
      expect((await add(first)).status).toBe(200);
      expect((await add(sign({ function: "ab".repeat(32) }))).body.detail).toMatch(/about the function abab/);
      for (const bad of ["{}", `${first} `, "x".repeat(5000)]) expect((await add(bad)).status).toBe(400);
      const bob = new RestClient(service.url, await fabric.keyOf(service.url, "bob"));
      const path = "/v1/functions/me%2Fkept%401/signatures";
      expect((await bob.post(path, { envelope: sign() })).status).toBe(404);
      await api.call("PUT", "/v1/functions/kept/sharing", { json: { visibility: "public" } });
      expect((await bob.post(path, { envelope: sign() })).status).toBe(201);
      for (let i = 2; i < 20; i++) await add(sign({ created: i }));
      const { items } = (await api.get("/v1/functions/kept/signatures")).body;
      const by = (name: string) => items.filter((item: { addedBy: string }) => item.addedBy === name).length;
      expect([by("me"), by("bob")]).toEqual([16, 1]);
    },
    START_MS,
  );
});
