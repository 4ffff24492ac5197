/**
 * What a fresh installation shows to whoever looks at it from outside: the sockets that its processes listen on, what they
 * would leave in files, and every route with every method, asked by nobody. It is started as `npm start` and `farloom dev`
 * do, by a shell with open habits.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startFabric } from "../../scripts/lib/fabric.mjs";
import { raw } from "./raw-http.js";

// Before the fabric's environment is taken: else most of what is asked here would be answered 429 by the wall for guessers.
vi.hoisted(() => {
  process.env.FARLOOM_FAILED_AUTH_PER_MINUTE = "1000000";
});

/** A first start makes a database; on a loaded machine that takes its time. */
const START_MS = 150_000;
const LISTEN = "0A";
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

/** Public by need: what tells nothing of anybody, and what checks its own proof. All else answers nobody. */
const PUBLIC = new Set([
  "GET /health/live",
  "GET /health/ready",
  "GET /.well-known/jwks.json",
  "GET /.well-known/oauth-authorization-server",
  // For agents, by code, signature or nonce.
  "POST /v1/endpoints/enroll",
  "POST /v1/endpoints/{id}/challenge",
  "POST /v1/endpoints/{id}/session",
  "POST /v1/endpoints/{id}/rekey",
  // How people and programs log in; each checks what is shown.
  "POST /v1/oauth/device",
  "POST /v1/oauth/token",
  "POST /v1/oauth/revoke",
  "GET /login",
  "POST /login",
  "GET /login/oidc/{provider}",
  "GET /login/oidc/{provider}/callback",
  "POST /logout",
  "GET /setup",
  "POST /setup",
  "GET /account",
  "GET /device",
  "POST /device",
]);

let home: string;
let fabric: Awaited<ReturnType<typeof startFabric>>;

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), "farloom-fresh-"));
  const options = { stateDir: join(home, "state"), port: 0, configFile: join(home, "config.json") };
  // What is started has these from here.
  const umask = process.umask(0o000);
  const core = limitCore("unlimited");
  try {
    fabric = await startFabric({ ...options, stopping: new AbortController().signal });
  } finally {
    process.umask(umask);
    limitCore(core);
  }
}, START_MS);
afterAll(async () => {
  await fabric?.stop();
  rmSync(home, { recursive: true, force: true });
}, START_MS);

/** Sets this process's soft limit; returns what it was. */
function limitCore(soft: string): string {
  const before = /^Max core file size\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8"))![1]!;
  execFileSync("prlimit", [`--pid=${process.pid}`, `--core=${soft}:`]);
  return before;
}

interface Listening {
  readonly pid: number;
  readonly address: string;
  readonly port: number;
}

/** What /proc says of a process; nothing where it has ended. */
function text(pid: number | string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    return "";
  }
}

/** Every process whose files or arguments are of this installation, and all below them. */
function ownProcesses(): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const own = new Set(pids.filter((pid) => text(pid, "cmdline").includes(home)));
  const parentOf = (pid: string): string => {
    const stat = text(pid, "stat");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1] ?? "";
  };
  for (let before = -1; before !== own.size; ) {
    before = own.size;
    for (const pid of pids) if (own.has(parentOf(pid))) own.add(pid);
  }
  return [...own].map(Number);
}

function listening(pids: readonly number[]): Listening[] {
  const inodes = new Map<string, Omit<Listening, "pid">>();
  for (const file of ["tcp", "tcp6"]) {
    for (const line of readFileSync(`/proc/net/${file}`, "latin1").split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[3] !== LISTEN) continue;
      const [address, port] = fields[1]!.split(":") as [string, string];
      inodes.set(fields[9]!, { address, port: Number.parseInt(port, 16) });
    }
  }
  return pids.flatMap((pid) => {
    let files: string[];
    try {
      files = readdirSync(`/proc/${pid}/fd`);
    } catch {
      return [];
    }
    return files.flatMap((fd) => {
      try {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
        const found = inode === undefined ? undefined : inodes.get(inode);
        return found ? [{ pid, ...found }] : [];
      } catch {
        return [];
      }
    });
  });
}

/** As the kernel writes them: 127.0.0.0/8, ::1, and the former in IPv6. */
const LOOPBACK = [/^[0-9A-F]{6}7F$/, /^0{24}01000000$/, /^0{16}FFFF0000[0-9A-F]{6}7F$/];

describe("a fresh installation", () => {
  it("listens on loopback alone, with each of its processes", () => {
    const pids = ownProcesses();
    // The command, the service, PostgreSQL and the agent at least.
    expect(pids.length).toBeGreaterThanOrEqual(4);
    const sockets = listening(pids);
    const port = Number(new URL(fabric.url).port);
    expect(sockets.map((socket) => socket.port)).toContain(port);
    const open = sockets.filter(({ address }) => !LOOPBACK.some((pattern) => pattern.test(address)));
    expect(open).toEqual([]);
  });

  it("writes for its user alone, and no core file: the service, its PostgreSQL, the agent and its workers", () => {
    // Not what only starts the others: the command, and whoever ends what it leaves.
    const parts = ownProcesses().filter((pid) => !/reaper\.py|\/cli\//.test(text(pid, "cmdline")));
    const all = parts.map((pid) => text(pid, "cmdline")).join("\n");
    for (const part of ["web-service", "postgres", "endpoint-agent", "farloom_worker"])
      expect(all).toContain(part);
    for (const pid of parts) {
      const [status, limits] = [text(pid, "status"), text(pid, "limits")];
      // It has ended meanwhile.
      if (status === "" || limits === "") continue;
      expect(status, `umask of ${pid}`).toMatch(/^Umask:\s+0077$/m);
      expect(limits, `limits of ${pid}`).toMatch(/^Max core file size\s+0\s/m);
    }
  });

  it("answers nobody on any route with any method, but on those that are public by need", async () => {
    const { host } = new URL(fabric.url);
    const ask = (method: string, path: string) =>
      raw(fabric.url, [`${method} ${path} HTTP/1.1`, `Host: ${host}`, "Content-Length: 0"]);
    const page = JSON.parse((await ask("GET", "/openapi.json")).body);
    const open = new Set<string>();
    const paths = Object.keys(page.paths);
    expect(paths.length).toBeGreaterThan(50);
    for (const path of paths) {
      for (const method of METHODS.filter((one) => one !== "HEAD")) {
        const filled = path
          .replace(/\{id\}/, "0197f000-0000-7000-8000-000000000001")
          .replace(/\{digest\}/, "0".repeat(64))
          .replace(/\{\w+\}/g, "x");
        const { status } = await ask(method, filled);
        if (PUBLIC.has(`${method} ${path}`)) continue;
        if (![400, 401, 404, 405].includes(status)) open.add(`${method} ${path}: ${status}`);
        // 400 is the parser's, which knows no such method; a route's own would have read what nobody may send.
        if (status === 400 && ["GET", "POST", "PUT", "DELETE"].includes(method))
          open.add(`${method} ${path}: 400`);
      }
    }
    expect([...open]).toEqual([]);
  });

  it("has on its list of public routes what is there, and nothing else", async () => {
    const { host } = new URL(fabric.url);
    const { body } = await raw(fabric.url, ["GET /openapi.json HTTP/1.1", `Host: ${host}`]);
    const listed = Object.entries<Record<string, { security?: unknown[] }>>(JSON.parse(body).paths).flatMap(
      ([path, methods]) =>
        Object.entries(methods)
          .filter(([method, { security }]) => method !== "head" && security?.length === 0)
          .map(([method]) => `${method.toUpperCase()} ${path}`),
    );
    expect(new Set(listed)).toEqual(PUBLIC);
  });
});
