/**
 * An agent on a machine that others use too, as real processes: nobody else reads what is its own, nothing listens on an
 * address, no list of processes shows a secret, and no core dump is written.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TERMINAL_STATES } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FakeService } from "../support/fake-service.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const START_MS = 30_000;
/** A user that is not this one; only root may be another. */
const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;

let service: FakeService;
let parent: string;
let stateDir: string;
let agent: ChildProcess;
/** The agent and all that it started. */
let family: number[];

beforeAll(async () => {
  service = await FakeService.start();
  // Others may enter where the folder lies: that it is closed is its own doing.
  parent = mkdtempSync(join(tmpdir(), "farloom-hygiene-"));
  chmodSync(parent, 0o755);
  stateDir = join(parent, "state");
  const enrolled = await run(["enroll", "--service", service.url, "--code-file", "-"], "good-code\n");
  expect(enrolled.status, enrolled.stderr).toBe(0);
  // As a shell with open habits starts it.
  const line = `umask 000; ulimit -S -c unlimited; exec "$@"`;
  const args = ["run", "--state-dir", stateDir, "--workers", "2", "--stop-workers", "--drain-ms", "0"];
  agent = spawn("/bin/sh", ["-c", line, "sh", process.execPath, MAIN, ...args], { stdio: "ignore" });
  await service.until(() => service.connected && service.roomTasks > 0, "the agent is connected", START_MS);
  service.sendTasks([{}, {}]);
  await service.until(() => service.results.length === 2, "its workers have worked", START_MS);
  expect(service.results.map(({ state }) => state)).toEqual([
    TERMINAL_STATES.SUCCEEDED,
    TERMINAL_STATES.SUCCEEDED,
  ]);
  family = familyOf(agent.pid!);
  expect(family.length).toBeGreaterThanOrEqual(2);
});
afterAll(async () => {
  if (agent.exitCode === null && agent.signalCode === null) {
    agent.kill("SIGTERM");
    await once(agent, "exit");
  }
  rmSync(parent, { recursive: true, force: true });
  await service.close();
});

async function run(args: readonly string[], input = "", dir = stateDir) {
  const child = spawn(process.execPath, [MAIN, ...args, "--state-dir", dir], {
    stdio: ["pipe", "ignore", "pipe"],
  });
  child.stdin!.end(input);
  let stderr = "";
  child.stderr!.setEncoding("utf8").on("data", (words: string) => {
    stderr += words;
  });
  await once(child, "close");
  return { status: child.exitCode, stderr };
}

/** A process and its descendants. */
function familyOf(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? text(`/proc/${name}/stat`) : "";
    const found = /\) \S (\d+)/.exec(stat)?.[1];
    if (found !== undefined) parents.set(Number(name), Number(found));
  }
  const all = [pid];
  for (const one of all) for (const [child, of] of parents) if (of === one) all.push(child);
  return all;
}

function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function* walk(path: string): Generator<string> {
  yield path;
  if (lstatSync(path).isDirectory()) for (const name of readdirSync(path)) yield* walk(join(path, name));
}

/** Inodes of the sockets that a process has open. */
function socketsOf(pid: number): Set<string> {
  const found = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined) found.add(inode);
    } catch {
      // Closed meanwhile.
    }
  }
  return found;
}

/** What of these sockets listens on an address of TCP (state 0A), or takes datagrams (UDP, 07). */
function listening(sockets: ReadonlySet<string>): string[] {
  const tables = [
    ["tcp", "0A"],
    ["tcp6", "0A"],
    ["udp", "07"],
    ["udp6", "07"],
  ] as const;
  return tables.flatMap(([table, state]) =>
    text(`/proc/net/${table}`)
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter((cells) => cells[3] === state && sockets.has(cells[9] ?? ""))
      .map((cells) => `${table} ${cells[1]}`),
  );
}

describe("an agent with workers", () => {
  it("makes everything for its user alone, whatever the shell that started it", () => {
    const open = [...walk(stateDir)].filter((path) => {
      const stat = lstatSync(path);
      return (!stat.isSymbolicLink() && (stat.mode & 0o077) !== 0) || stat.uid !== process.getuid?.();
    });
    expect(open).toEqual([]);
    for (const pid of family)
      expect(text(`/proc/${pid}/status`), `umask of ${pid}`).toMatch(/^Umask:\s+0077$/m);
  });

  it("writes no core dump of a process that has keys", () => {
    for (const pid of family)
      expect(text(`/proc/${pid}/limits`), `limits of ${pid}`).toMatch(/^Max core file size\s+0\s/m);
  });

  it.runIf(isRoot)(
    "shows another user nothing: no file, no folder, no socket, no environment",
    () => {
      const as = (line: string): string => {
        const setpriv = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "/bin/sh", "-c", line];
        return spawnSync("setpriv", setpriv, { encoding: "utf8" }).stdout;
      };
      writeFileSync(join(parent, "open"), "readable", { mode: 0o644 });
      chmodSync(join(parent, "open"), 0o644);
      expect(as(`cat ${parent}/open`)).toBe("readable");
      for (const path of walk(stateDir)) expect(as(`cat '${path}' || ls '${path}'`), path).toBe("");
      for (const pid of family) expect(as(`cat /proc/${pid}/environ; ls /proc/${pid}/fd`), `${pid}`).toBe("");
      const connect = `require("net").connect(process.argv[1], () => console.log("in")).on("error", () => 0)`;
      const knock = `'${process.execPath}' -e '${connect}' '${join(stateDir, "control.sock")}'`;
      expect(as(knock)).toBe("");
      expect(execFileSync("/bin/sh", ["-c", knock], { encoding: "utf8", timeout: START_MS })).toBe("in\n");
    },
    60_000,
  );

  it("listens on no address, loopback neither: its doors are sockets in its folder", async () => {
    const control = createServer().listen(0, "127.0.0.1");
    await once(control, "listening");
    expect(listening(socketsOf(process.pid)).length).toBeGreaterThan(0);
    control.close();
    for (const pid of family) expect(listening(socketsOf(pid)), `${pid}`).toEqual([]);
  });

  it("shows no secret in a list of processes", () => {
    const secrets = [
      ...text(join(stateDir, "private-key.pem"))
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("-")),
      ...[...walk(stateDir)]
        .filter((path) => path.endsWith(".json"))
        .flatMap((path) =>
          [...text(path).matchAll(/"(?:secret|marker|token)":\s*"([^"]+)"/g)].map((found) => found[1]!),
        ),
    ];
    // The key, and what each worker proves itself by.
    expect(secrets.length).toBeGreaterThanOrEqual(3);
    for (const pid of family) {
      const argv = text(`/proc/${pid}/cmdline`);
      expect(argv).not.toBe("");
      for (const secret of secrets) expect(argv, `argv of ${pid}`).not.toContain(secret);
    }
  });

  it("does not start where others could have had a hand in it, and says what to do", async () => {
    const copy = join(parent, "copy");
    const starts = async (): Promise<string> => {
      const { status, stderr } = await run(["run"], "", copy);
      expect(status).toBe(1);
      return stderr;
    };
    cpSync(join(stateDir, "identity.json"), join(copy, "identity.json"), { recursive: true });
    cpSync(join(stateDir, "private-key.pem"), join(copy, "private-key.pem"));
    chmodSync(copy, 0o755);
    expect(await starts()).toContain(`Run: chmod 700 '${copy}'`);
    chmodSync(copy, 0o700);
    chmodSync(join(copy, "private-key.pem"), 0o640);
    expect(await starts()).toContain(`Run: chmod 600 '${join(copy, "private-key.pem")}'`);
  });
});
