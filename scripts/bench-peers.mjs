#!/usr/bin/env node
/**
 * `npm run bench:peers`: the same three workloads on Farloom and on its peers, in one run, with the ratios.
 *
 * What is measured and why it is fair: bench/peers/README.md. The peers: bench/peers/peers.mjs. The Farloom row
 * comes from `scripts/bench.mjs --quick --json`. One at a time, so that nothing measured shares the machine with
 * another peer. Progress goes to stderr; stdout carries the result alone.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { cpus, platform, release, totalmem } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { lastJsonLine, runContained, stopAll } from "../bench/peers/contained.mjs";
import { installPeer, PEERS, runPeer } from "../bench/peers/peers.mjs";
import { markdownTable, ratiosOf, textTable } from "../bench/peers/table.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FARLOOM_BENCH = fileURLToPath(new URL("./bench.mjs", import.meta.url));
/** Its quick run takes about a minute; a machine that is busy may need several. */
const FARLOOM_TIMEOUT_MS = 600_000;

const KEYS = ["farloom", ...PEERS.map((peer) => peer.key)];
const HELP = `Usage: npm run bench:peers -- [options]

Runs the same three workloads on Farloom and on its peers and prints a table with ratios.

  --only LIST      only these rows, by comma: ${KEYS.join(", ")}
  --skip LIST      all but these
  --install-only   install the peers into bench/.peers and stop
  --json           print one JSON object in place of the table
  --markdown       print the table as Markdown, as docs/benchmarks.md holds it
  --verbose        pass on what the peers write to stderr
  -h, --help       this

A peer that cannot be installed or run is a row with its reason. Exit status: 0, 1 when nothing could be measured,
2 for wrong usage.
`;

function progress(line) {
  process.stderr.write(`${line}\n`);
}

function usageError(message) {
  process.stderr.write(`bench:peers: ${message}\nTry --help.\n`);
  process.exit(2);
}

function parseOptions() {
  const list = { type: "string", multiple: true };
  const flag = { type: "boolean", default: false };
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        only: list,
        skip: list,
        "install-only": flag,
        json: flag,
        markdown: flag,
        verbose: flag,
        help: { ...flag, short: "h" },
      },
    }));
  } catch (error) {
    usageError(error.message);
  }
  const keysOf = (given = []) => given.flatMap((text) => text.split(",")).filter(Boolean);
  const only = keysOf(values.only);
  const skip = keysOf(values.skip);
  const unknown = [...only, ...skip].find((key) => !KEYS.includes(key));
  if (unknown !== undefined) usageError(`no peer "${unknown}"; there are ${KEYS.join(", ")}`);
  if (values.json && values.markdown) usageError("--json and --markdown exclude each other");
  const wants = (key) => (only.length === 0 || only.includes(key)) && !skip.includes(key);
  return Object.freeze({ ...values, installOnly: values["install-only"], wants });
}

function describeMachine() {
  const python = spawnSync("python3", ["--version"], { encoding: "utf8" }).stdout?.trim();
  return {
    cpus: cpus().length,
    cpu: cpus()[0]?.model.trim() || "unknown",
    memory_gib: Math.round(totalmem() / 2 ** 30),
    os: `${platform()} ${release()}`,
    node: process.versions.node,
    python: python || "no Python",
  };
}

/** The Farloom row, in the peers' own shape. */
async function runFarloom(onStderr) {
  if (!existsSync(FARLOOM_BENCH)) return { ok: false, reason: "scripts/bench.mjs is not there yet" };
  const options = { cwd: ROOT, timeoutMs: FARLOOM_TIMEOUT_MS, onStderr };
  const run = await runContained(process.execPath, [FARLOOM_BENCH, "--quick", "--json"], options);
  if (!run.ok) return run;
  const bench = lastJsonLine(run.stdout);
  if (!bench) return { ok: false, reason: "the last line of scripts/bench.mjs --json is not a JSON object" };
  const numbers = ["noop_batch_per_s", "rtt_p50_ms", "rtt_p95_ms", "rtt_p99_ms", "sleep10_efficiency"];
  const absent = numbers.find((key) => typeof bench[key] !== "number");
  if (absent) return { ok: false, reason: `scripts/bench.mjs --json has no number ${absent}` };
  const { version } = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8"));
  const single = bench.noop_single_per_s;
  const result = {
    name: "Farloom",
    version,
    durable: true,
    noop_per_s: bench.noop_batch_per_s,
    rtt_ms: { p50: bench.rtt_p50_ms, p95: bench.rtt_p95_ms, p99: bench.rtt_p99_ms },
    sleep10_efficiency: bench.sleep10_efficiency,
    note: `every task and result committed in PostgreSQL${single ? `; ${Math.round(single)} no-op/s submitted one by one` : ""}`,
  };
  return { ok: true, result };
}

/** The share of all cores that something used during one second, 0 to 1. Nothing of ours runs then. */
async function busyShare() {
  const total = () => {
    const times = cpus().map((cpu) => cpu.times);
    const idle = times.reduce((sum, time) => sum + time.idle, 0);
    const all = times.reduce((sum, time) => sum + time.user + time.nice + time.sys + time.irq + time.idle, 0);
    return { idle, all };
  };
  const before = total();
  await sleep(1_000);
  const after = total();
  const all = after.all - before.all;
  return all > 0 ? Number((1 - (after.idle - before.idle) / all).toFixed(2)) : 0;
}

/** Runs one row; what the machine was doing besides is noted with it. */
async function measureRow({ key, name }, run) {
  const busyBefore = await busyShare();
  progress(`${name}: running (machine ${Math.round(busyBefore * 100)} % busy)`);
  const outcome = await run();
  const busyBeside = Math.max(busyBefore, await busyShare());
  if (!outcome.ok) {
    progress(`${name}: ${outcome.reason}`);
    return { key, name, reason: outcome.reason };
  }
  const { noop_per_s: rate, rtt_ms: rtt, sleep10_efficiency: efficiency } = outcome.result;
  progress(
    `${name}: ${Math.round(rate)} no-op/s, p50 ${rtt.p50} ms, 10 ms work ${(efficiency * 100).toFixed(1)} %`,
  );
  return { key, ...outcome.result, busy_beside: busyBeside };
}

async function installAll(options) {
  const failures = new Map();
  for (const peer of PEERS.filter(({ key }) => options.wants(key))) {
    const installed = await installPeer(peer, progress);
    if (!installed.ok) failures.set(peer.key, installed.reason);
    progress(`${peer.name}: ${installed.ok ? "ready" : installed.reason}`);
  }
  return failures;
}

async function main() {
  const options = parseOptions();
  if (options.help) {
    process.stdout.write(HELP);
    return;
  }
  const failures = await installAll(options);
  if (options.installOnly) {
    process.exitCode = failures.size > 0 ? 1 : 0;
    return;
  }

  const onStderr = options.verbose ? (text) => process.stderr.write(text) : undefined;
  const rows = [];
  if (options.wants("farloom")) {
    rows.push(await measureRow({ key: "farloom", name: "Farloom" }, () => runFarloom(onStderr)));
  }
  for (const peer of PEERS.filter(({ key }) => options.wants(key))) {
    const reason = failures.get(peer.key);
    if (reason) rows.push({ key: peer.key, name: peer.name, reason });
    else rows.push(await measureRow(peer, () => runPeer(peer, onStderr)));
  }

  const ours = (key) => rows.find((row) => row.key === key && !row.reason);
  /** Callers of Python are compared with ours of Python. */
  const against = (row) =>
    row.key === "bullmq" ? ours("farloom") : (ours("farloom-python") ?? ours("farloom"));
  const report = {
    date: new Date().toISOString().slice(0, 10),
    machine: describeMachine(),
    rows: rows.map((row) => {
      const farloom = against(row);
      const comparable = farloom && !row.key.startsWith("farloom") && !row.reason;
      return comparable ? { ...row, ratios: ratiosOf(farloom, row) } : row;
    }),
  };
  if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
  else process.stdout.write(`${options.markdown ? markdownTable(report) : textTable(report)}\n`);
  process.exitCode = rows.some((row) => !row.reason) ? 0 : 1;
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    void stopAll().finally(() => process.exit(signal === "SIGINT" ? 130 : 143));
  });
}

await main();
