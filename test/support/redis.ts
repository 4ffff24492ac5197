// A real redis-server on a free loopback port, without persistence. Where the program is not installed
// (Debian: apt-get install redis-server), `redisAvailable` is false and the tests that need it skip themselves:
//
//   describe.skipIf(!redisAvailable)("… (skipped: redis-server is not installed)", …)
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { createServer } from "node:net";
import { delimiter, join } from "node:path";

export interface TestRedis {
  readonly url: string;
  readonly pid: number;
  /** Kills it: everything in it is lost, as it would be with a machine. Idempotent. */
  stop(): Promise<void>;
}

const program = (process.env.PATH ?? "")
  .split(delimiter)
  .map((dir) => join(dir, "redis-server"))
  .find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

export const redisAvailable = program !== undefined;

/** Starts one; on `port` if given (to bring a lost one back at the same address), else on a free port. */
export async function startRedis(port?: number): Promise<TestRedis> {
  if (program === undefined) throw new Error("redis-server is not installed");
  const chosen = port ?? (await freePort());
  const args = ["--port", String(chosen), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await Promise.race([
    untilReady(child),
    exited.then(() => {
      throw new Error(`redis-server ended at its start, port ${chosen}`);
    }),
  ]);
  return {
    url: `redis://127.0.0.1:${chosen}`,
    pid: child.pid as number,
    async stop() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

function untilReady(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    let text = "";
    child.stdout?.on("data", (chunk) => {
      text += chunk;
      if (text.includes("Ready to accept connections")) resolve();
    });
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}
