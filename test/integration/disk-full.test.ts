/**
 * PostgreSQL's disk is full, for real: the service's tables lie on a small tmpfs that something else fills. Nothing
 * acknowledged is lost, submissions are refused, results wait, and all of it goes on by itself when there is room.
 */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, statfsSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type EmbeddedPostgres,
  startEmbeddedPostgres,
} from "../../apps/web-service/src/store/embedded-postgres.js";
import { EchoAgent, makeEchoEndpoint } from "../support/echo-agent.js";
import { LinkClient } from "../support/link-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const LONG_MS = 60_000;
const DISK_MB = 128;
const big = Buffer.from(`[["${"x".repeat(60_000)}"],{}]`);

/** A small tmpfs, or undefined where this machine does not let us mount one. */
function mountDisk(): string | undefined {
  const dir = mkdtempSync(join(tmpdir(), "farloom-disk-"));
  try {
    chmodSync(dir, 0o755);
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${DISK_MB}m`, "tmpfs", dir], { stdio: "ignore" });
    return dir;
  } catch {
    rmSync(dir, { recursive: true, force: true });
    return undefined;
  }
}

const disk = mountDisk();
const title = disk
  ? "a full disk under PostgreSQL"
  : "a full disk under PostgreSQL (left out: a tmpfs cannot be mounted here)";

describe.skipIf(!disk)(title, () => {
  let home: string;
  let postgres: EmbeddedPostgres;
  let rest: RestService;

  beforeAll(async () => {
    home = mkdtempSync(join(tmpdir(), "farloom-full-"));
    chmodSync(home, 0o755);
    const dataDir = join(home, "postgres");
    const options = { dataDir, log: pino({ level: "silent" }) };
    await (await startEmbeddedPostgres(options)).stop();
    // The tables go to the small disk; the log stays where it is, as on a server whose log has a disk of its own.
    const base = join(dataDir, "base");
    execFileSync("cp", ["-a", base, join(disk!, "base")]);
    rmSync(base, { recursive: true });
    symlinkSync(join(disk!, "base"), base);
    postgres = await startEmbeddedPostgres(options);
    rest = await startRestService({ databaseUrl: postgres.url });
  }, 3 * LONG_MS);
  afterAll(async () => {
    await rest?.close();
    await postgres?.stop();
    execFileSync("umount", [disk!]);
    for (const dir of [home, disk!]) rmSync(dir, { recursive: true, force: true });
  }, LONG_MS);

  it("refuses submissions, keeps what was acknowledged, and recovers by itself", {
    timeout: 3 * LONG_MS,
  }, async () => {
    const code = "def f(*a):\n    return a\n";
    const made = await rest.api.post("/v1/functions", { name: "plain", runtime: "python", code, entry: "f" });
    const fn = Buffer.from(made.body.id, "hex");
    const endpoint = await makeEchoEndpoint(rest.api, "echo");
    const agent = await EchoAgent.connect(rest.url, endpoint, { onTask: () => undefined });
    const client = await LinkClient.connect(rest.url, rest.key);
    const before = client.submit({ endpointId: endpoint.id, fn, args: new Array(20).fill(big) });
    await client.untilDurable(LONG_MS);
    await agent.untilReceived(20);

    const { bavail, bsize } = statfsSync(disk!);
    const filler = join(disk!, "filler");
    // The database writes meanwhile, too: what is left for this file may be less.
    try {
      writeFileSync(filler, Buffer.alloc(Number(bavail) * Number(bsize)));
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe("ENOSPC");
    }
    const one = { function: made.body.id, endpoint: endpoint.id, args: ["y".repeat(60_000)] };
    let refused = await rest.api.post("/v1/tasks", one);
    for (let i = 0; refused.status === 202 && i < 100; i++) refused = await rest.api.post("/v1/tasks", one);
    expect(refused).toMatchObject({ status: 507, body: { code: "DATABASE_FULL", retryable: true } });
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    client.submit({ endpointId: endpoint.id, fn, args: new Array(20).fill(big) });
    await client.untilDurable(LONG_MS);
    expect(client.refusals.map((r) => r.code)).toEqual(["DATABASE_FULL"]);
    // Results wait for room: the agent is not told that it may forget them.
    agent.reply(agent.received.slice(0, 20), {});
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(agent.mark.durable).toBeLessThan(20);

    rmSync(filler);
    await client.untilOutcomes(before, LONG_MS);
    await agent.untilDurable();
    const after = await rest.api.post("/v1/tasks", one);
    expect(after.status).toBe(202);
    await client.close();
    await agent.close();
  });
});
