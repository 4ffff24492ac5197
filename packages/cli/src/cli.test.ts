/** The command as people and scripts meet it: real processes against a service on a real socket. */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FakeService } from "@farloom/sdk/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

const BIN = fileURLToPath(new URL("../bin/farloom.js", import.meta.url));
let fake: FakeService;
let folder: string;

beforeEach(async () => {
  fake = await FakeService.start();
  folder = mkdtempSync(join(tmpdir(), "farloom-cli-"));
});
afterEach(async () => {
  await fake.close();
  rmSync(folder, { recursive: true });
});

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function farloom(
  args: readonly string[],
  options: { input?: string; env?: Record<string, string> } = {},
): Promise<Ran> {
  const child = spawn(process.execPath, [BIN, ...args], {
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      HOME: folder,
      FARLOOM_URL: fake.url,
      FARLOOM_API_KEY: "k.s",
      FARLOOM_ENDPOINT: "laptop",
      ...options.env,
    },
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  child.stdin.end(options.input ?? "");
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })));
}

const python = (name: string) => {
  writeFileSync(join(folder, `${name}.py`), `def ${name}(x):\n    return x\n`);
  return `${name}.py`;
};

describe("run", () => {
  test("registers the file's function, calls it and prints its result alone", async () => {
    expect(await farloom(["run", python("echo"), "World"])).toEqual({
      code: 0,
      stdout: "World\n",
      stderr: "",
    });
  }, 20_000);

  test("--map calls for each line, and prints a line of JSON for each", async () => {
    const { code, stdout, stderr } = await farloom(["run", python("echo"), "--map", "-", "--ordered"], {
      input: '1\n"two"\n\n[3, 4]\n',
    });
    const results = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).result);
    expect([code, results]).toEqual([0, [1, "two", 3]]);
    expect(stderr).toContain("3 tasks");
  }, 20_000);

  test("a function that fails gives exit code 1, its error on standard error and nothing on standard output", async () => {
    const error = { type: "ValueError", message: "boom", traceback: "Traceback: here" };
    fake.options.run = () => ({
      state: 2,
      reason: 1,
      codec: 1,
      bytes: Buffer.alloc(0),
      detail: { error, stdout: "printed" },
    });
    const { code, stdout, stderr } = await farloom(["run", python("echo"), "1"]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/error: .*ValueError: boom[\s\S]*Traceback: here[\s\S]*printed/);
  }, 20_000);

  test("a file that is not there gives exit code 3", async () => {
    expect(await farloom(["run", "no.py"])).toMatchObject({ code: 3, stderr: "error: no.py is not there\n" });
  }, 20_000);

  test("a line that is not JSON is named", async () => {
    const { code, stderr } = await farloom(["run", python("echo"), "--map", "-"], { input: "1\nx\n" });
    expect([code, stderr.includes("line 2 of - is not JSON")]).toEqual([2, true]);
  }, 20_000);
});

describe("exit codes and messages", () => {
  test.each([
    [["nonsense"], {}, 2],
    [["tasks", "list", "--limit", "x"], {}, 2],
    [["functions", "list"], { FARLOOM_URL: "http://127.0.0.1:1" }, 5],
    [["functions", "list"], { FARLOOM_API_KEY: "" }, 4],
    [["functions", "list"], { FARLOOM_URL: "" }, 2],
    [["endpoint", "status", "--state-dir", "nowhere"], {}, 3],
  ])(
    "%j with %j ends with %i",
    async (args, env, code) => {
      expect((await farloom(args, { env: env as Record<string, string> })).code).toBe(code);
    },
    30_000,
  );

  test.each([
    [401, "UNAUTHENTICATED", 4],
    [403, "SCOPE_MISSING", 4],
    [404, "TASK_NOT_FOUND", 3],
    [409, "ENDPOINT_EXISTS", 7],
    [422, "FUNCTION_INVALID", 2],
  ])(
    "status %i %s becomes exit code %i, in the service's words",
    async (status, code, exit) => {
      fake.rest = () => ({ status, body: { code, detail: `It is ${code}.`, status } });
      const ran = await farloom(["tasks", "show", "00000000-0000-4000-8000-000000000000", "--json"]);
      expect([ran.code, JSON.parse(ran.stderr).error]).toMatchObject([
        exit,
        { code, message: `It is ${code}.` },
      ]);
    },
    20_000,
  );

  test("lists are tables, and arrays with --json before or after the command", async () => {
    const items = [
      { id: "1", name: "laptop", connected: true, agentInfo: { host: "h\u001b[2J" }, queued: 0, leased: 1 },
    ];
    fake.rest = (_, url) => (url.startsWith("/v1/endpoints") ? { status: 200, body: { items } } : undefined);
    const plain = await farloom(["endpoint", "list"]);
    expect(plain.stdout).toMatch(/^NAME {2,}STATE[\s\S]*\nlaptop {2,}connected {2,}h\?\[2J/);
    expect(JSON.parse((await farloom(["endpoint", "list", "--json"])).stdout)).toEqual(items);
    expect(JSON.parse((await farloom(["--json", "endpoint", "list"])).stdout)).toEqual(items);
  }, 20_000);
});

describe("login", () => {
  test("keeps address and key for its owner's eyes, after asking the service", async () => {
    const me = { owner: "ada", scopes: ["tasks:submit"], expiresAt: "2030-01-01T00:00:00Z" };
    fake.rest = (_, url) => (url === "/v1/me" ? { status: 200, body: me } : undefined);
    const env = { FARLOOM_URL: "", FARLOOM_API_KEY: "" };
    const { code, stdout } = await farloom(["login", "--url", fake.url, "--key", "-"], {
      input: "fl_1.secret\n",
      env,
    });
    expect([code, stdout.includes("ada"), stdout.includes("secret")]).toEqual([0, true, false]);
    const path = join(folder, ".config", "farloom", "config.json");
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ url: fake.url, apiKey: "fl_1.secret" });
    expect(statSync(path).mode & 0o077).toBe(0);
    expect(fake.requests.at(-1)!.authorization).toBe("Bearer fl_1.secret");
  }, 20_000);
});

test.each(["bash", "zsh", "fish"])(
  "completion for %s names every command",
  async (shell) => {
    const { code, stdout } = await farloom(["completion", shell]);
    expect(code).toBe(0);
    for (const word of ["dev", "doctor", "functions", "register", "enroll"]) expect(stdout).toContain(word);
  },
  20_000,
);
