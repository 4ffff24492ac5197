/** The machine of a run: what it is, and what it can do at all, measured in the same run. */
import { spawnSync } from "node:child_process";
import { closeSync, fdatasyncSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { cpus, platform, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startProgram } from "./fabric.mjs";
import { figure, percentile } from "./stats.mjs";

const FLOOR = fileURLToPath(new URL("./floor.py", import.meta.url));
const SYNCS = 300;
/** As large as a short record of a write-ahead log. */
const SYNC_BYTES = 512;

function versionOf(command, args) {
  const found = spawnSync(command, args, { encoding: "utf8" });
  return /\d+\.\d+(\.\d+)?/.exec(found.stdout ?? "")?.[0] ?? "none";
}

/** PostgreSQL's version is that of the program that process `postgresPid` runs. */
export function describeMachine(postgresPid) {
  const postgres = versionOf(`/proc/${postgresPid}/exe`, ["--version"]);
  return {
    cores: cpus().length,
    cpu: cpus()[0]?.model.trim() || "unknown",
    memory_gib: Math.round(totalmem() / 2 ** 30),
    kernel: `${platform()} ${release()}`,
    node: process.versions.node,
    python: versionOf("python3", ["--version"]),
    postgres: postgres === "none" ? postgresVersionFile(postgresPid) : postgres,
  };
}

/** Where the program may not be started by us, its cluster still says the major version. */
function postgresVersionFile(pid) {
  try {
    return readFileSync(`/proc/${pid}/cwd/PG_VERSION`, "utf8").trim();
  } catch {
    return "unknown";
  }
}

/** Milliseconds of a synced write in the folder that the database lies in, too. */
export function measureSync() {
  const folder = mkdtempSync(join(tmpdir(), "farloom-sync-"));
  const file = openSync(join(folder, "file"), "w");
  const bytes = Buffer.alloc(SYNC_BYTES, 1);
  const ms = [];
  for (let i = 0; i < SYNCS; i++) {
    writeSync(file, bytes);
    const start = performance.now();
    fdatasyncSync(file);
    ms.push(performance.now() - start);
  }
  closeSync(file);
  rmSync(folder, { recursive: true });
  const p50 = percentile(
    ms.toSorted((a, b) => a - b),
    50,
  );
  return figure("fdatasync_p50_ms", `fdatasync of ${SYNC_BYTES} B, p50`, "ms", p50);
}

/** The floor, as figures. */
export async function measureFloor() {
  const run = startProgram("python3", [FLOOR], { stdio: ["ignore", "pipe", "inherit"] });
  let stdout = "";
  run.child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
  });
  const { status } = await run.ended;
  if (status !== 0) throw new Error(`the floor's program ended with status ${status}`);
  const floor = JSON.parse(stdout);
  const { rates, rtt_ms: calls } = floor;
  const label = "Python ProcessPoolExecutor(2)";
  return [
    figure("floor_noop_per_s", `${label}, no-ops`, "tasks/s", rates, { pick: "best" }),
    figure("floor_rtt_p50_ms", `${label}, round trip p50`, "ms", percentile(calls, 50)),
    figure("floor_sleep10_efficiency", `${label}, 10 ms sleeps, ideal ÷ measured`, "", floor.sleep10_pool),
    figure(
      "bare_sleep10_efficiency",
      "two bare loops of 10 ms sleeps, ideal ÷ measured",
      "",
      floor.sleep10_bare,
    ),
  ];
}

const BUSY_MS = 400;

/** The share of all cores that something uses just now, 0 to 1. Nothing of ours works then. */
export async function busyShare() {
  const read = () => {
    const times = cpus().map((cpu) => cpu.times);
    const all = times.reduce((sum, t) => sum + t.user + t.nice + t.sys + t.irq + t.idle, 0);
    return { all, idle: times.reduce((sum, t) => sum + t.idle, 0) };
  };
  const before = read();
  await sleep(BUSY_MS);
  const after = read();
  const all = after.all - before.all;
  return all > 0 ? Number((1 - (after.idle - before.idle) / all).toFixed(2)) : 0;
}
