// `farloom login` as a process, against a real service: by code where there is no display, by the browser where there is one;
// then the SDK that reads what it wrote, whoami, sessions and logout.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Farloom } from "@farloom/sdk";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { FakeAgent } from "../support/fake-agent.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");
const LIMIT_MS = 60_000;

let rest: RestService;
let folder: string;
let config: string;
let person: Browser;
const children = new Set<ChildProcess>();

beforeAll(async () => {
  rest = await startRestService();
  folder = mkdtempSync(join(tmpdir(), "farloom-login-"));
  config = join(folder, "config.json");
  person = new Browser();
  await person.submit(await person.get(`${rest.url}/setup`), {
    token: rest.service.firstAdminToken!,
    name: "me",
    password: "correct horse battery",
  });
}, LIMIT_MS);
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
});
afterAll(async () => {
  await rest?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Run {
  readonly said: () => string;
  readonly ended: Promise<{ code: number; stdout: string; stderr: string }>;
}

function farloom(args: readonly string[], env: Record<string, string> = {}): Run {
  const { FARLOOM_URL, FARLOOM_API_KEY, DISPLAY, WAYLAND_DISPLAY, BROWSER, SSH_CONNECTION, ...outer } =
    process.env;
  const child = spawn(process.execPath, [CLI, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...outer, FARLOOM_CONFIG: config, ...env },
  });
  children.add(child);
  let [stdout, stderr] = ["", ""];
  child.stdout!.setEncoding("utf8").on("data", (text) => {
    stdout += text;
  });
  child.stderr!.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const ended = once(child, "close").then(([code]) => {
    children.delete(child);
    return { code, stdout, stderr };
  });
  return { said: () => stderr, ended };
}

/** The code that the process shows, once it does. */
async function codeOf(run: Run): Promise<string> {
  await expect.poll(run.said, { timeout: 30_000, interval: 50 }).toMatch(/[A-Z]{4}-[A-Z]{4}/);
  return /\b([A-Z]{4}-[A-Z]{4})\b/.exec(run.said())![1]!;
}

async function decide(code: string, decision: string): Promise<void> {
  await person.submit(await person.get(`${rest.url}/device?user_code=${code}`), { decision });
}

describe("farloom login", () => {
  it(
    "shows a code where there is no display, keeps what it gets for its owner's eyes, and the SDK goes on from there",
    async () => {
      const run = farloom(["login", "--url", rest.url, "--endpoint", "laptop", "--json"]);
      const code = await codeOf(run);
      expect(run.said()).toContain(`Open ${rest.url}/device in any browser`);
      await decide(code, "approve");
      const { code: exit, stdout } = await run.ended;
      expect([exit, JSON.parse(stdout)]).toMatchObject([0, { url: rest.url, owner: "me" }]);
      expect(statSync(config).mode & 0o077).toBe(0);
      const kept = JSON.parse(readFileSync(config, "utf8"));
      expect(kept).toMatchObject({ url: rest.url, endpoint: "laptop" });
      expect(stdout).not.toContain(kept.login.refreshToken);

      const who = await farloom(["whoami", "--json"]).ended;
      expect(JSON.parse(who.stdout)).toMatchObject({ owner: "me", by: "login", admin: true });

      // An access token that has expired: the SDK exchanges it, for the link and for REST, and programs at once share it.
      writeFileSync(config, JSON.stringify({ ...kept, login: { ...kept.login, expiresAtMs: 0 } }));
      const agent = await FakeAgent.start(rest.api, "laptop", () => ({ value: 42 }));
      process.env.FARLOOM_CONFIG = config;
      const clients = [new Farloom(), new Farloom(), new Farloom()];
      try {
        const source = { name: "answer", runtime: "python", code: "def answer(): return 42\n" } as const;
        const answers = clients.map(async (client) => (await client.register(source)).call([]));
        expect(await Promise.all(answers)).toEqual([42, 42, 42]);
        const later = JSON.parse(readFileSync(config, "utf8"));
        expect(later.login.refreshToken).not.toBe(kept.login.refreshToken);
        expect([later.login.nonce, later.endpoint]).toEqual([undefined, "laptop"]);
      } finally {
        delete process.env.FARLOOM_CONFIG;
        for (const client of clients) await client.close();
        await agent.close();
      }

      const { login } = JSON.parse(readFileSync(config, "utf8"));
      expect(await farloom(["logout"]).ended).toMatchObject({ code: 0 });
      expect(JSON.parse(readFileSync(config, "utf8"))).toEqual({ url: rest.url, endpoint: "laptop" });
      const headers = { authorization: `Bearer ${login.accessToken}` };
      expect((await fetch(`${rest.url}/v1/me`, { headers })).status).toBe(401);
      expect((await farloom(["logout"]).ended).code).toBe(4);
    },
    LIMIT_MS,
  );

  it(
    "opens the browser where there is a display, and hears when somebody denies it",
    async () => {
      const opened = join(folder, "opened");
      const browser = join(folder, "browser.sh");
      writeFileSync(browser, `#!/bin/sh\nprintf '%s' "$1" > ${opened}.part && mv ${opened}.part ${opened}\n`);
      chmodSync(browser, 0o755);
      const run = farloom(["login", "--url", rest.url], { BROWSER: browser });
      const code = await codeOf(run);
      expect(run.said()).toContain("Your browser opens");
      await expect
        .poll(() => statSync(opened, { throwIfNoEntry: false })?.size ?? 0, { timeout: 20_000 })
        .toBeGreaterThan(0);
      expect(readFileSync(opened, "utf8")).toBe(`${rest.url}/device?user_code=${code}`);
      await decide(code, "deny");
      expect(await run.ended).toMatchObject({ code: 4, stderr: expect.stringContaining("denied") });
    },
    LIMIT_MS,
  );

  it("says what it does with --help", async () => {
    const { code, stdout } = await farloom(["login", "--help"]).ended;
    expect([code, stdout]).toEqual([0, expect.stringContaining("--device")]);
  });
});
