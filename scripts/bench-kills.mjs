#!/usr/bin/env node
/**
 * `npm run bench:kills`: the same kill tests on Farloom and on its peers: what was acknowledged, lost, and run twice.
 *
 * What is done and counted, and why it is fair: bench/peers/kill/README.md. Who: bench/peers/kill/systems.mjs. One at a
 * time. Progress goes to stderr; stdout carries the result alone.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, platform, release, totalmem } from "node:os";
import { parseArgs } from "node:util";
import { stopAll } from "../bench/peers/contained.mjs";
import { PARTS, peerOf, runKill, SYSTEMS } from "../bench/peers/kill/systems.mjs";
import { markdownTable, textTable, withSection } from "../bench/peers/kill/table.mjs";
import { installPeer } from "../bench/peers/peers.mjs";

const KEYS = SYSTEMS.map(({ key }) => key);
const HELP = `Usage: npm run bench:kills -- [options]

Kills parts of Farloom and of its peers while they work, and counts what became of the tasks.

  --only LIST     only these systems, by comma: ${KEYS.join(", ")}
  --parts LIST    only where these are killed: ${PARTS.join(", ")}
  --slow N        a busy machine: every run may take N times as long
  --json          print one JSON object in place of the table
  --markdown      print the table as Markdown
  --write FILE    also put the Markdown table between the markers of FILE
  --verbose       pass on what the systems write to stderr
  -h, --help      this

A system that cannot be installed or run is a row with its reason. Exit status: 0, 1 when nothing could be run,
2 for wrong usage.
`;

function progress(line) {
  process.stderr.write(`${line}\n`);
}

function usageError(message) {
  process.stderr.write(`bench:kills: ${message}\nTry --help.\n`);
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
        parts: list,
        slow: { type: "string", default: "1" },
        json: flag,
        markdown: flag,
        write: { type: "string" },
        verbose: flag,
        help: { ...flag, short: "h" },
      },
    }));
  } catch (error) {
    usageError(error.message);
  }
  const chosen = (given, known, what) => {
    const names = (given ?? []).flatMap((text) => text.split(",")).filter(Boolean);
    const unknown = names.find((name) => !known.includes(name));
    if (unknown !== undefined) usageError(`no ${what} "${unknown}"; there are ${known.join(", ")}`);
    return names.length > 0 ? names : known;
  };
  const slow = Number(values.slow);
  if (!(slow >= 1 && slow <= 20)) usageError("--slow is a number from 1 to 20");
  if (values.json && values.markdown) usageError("--json and --markdown exclude each other");
  const only = chosen(values.only, KEYS, "system");
  return Object.freeze({ ...values, slow, only, parts: chosen(values.parts, PARTS, "part") });
}

function describeMachine() {
  const gib = Math.round(totalmem() / 2 ** 30);
  const cpu = cpus()[0]?.model.trim() || "unknown";
  return `${cpus().length} cores (${cpu}), ${gib} GiB, ${platform()} ${release()}, Node ${process.versions.node}`;
}

async function runSystem(system, options) {
  const { key, name } = system;
  const peer = peerOf(system);
  const installed = peer ? await installPeer(peer, progress) : { ok: true };
  const rows = [];
  for (const part of PARTS.filter((one) => system.parts[one] && options.parts.includes(one))) {
    const row = { key, name, part, killed: system.parts[part] };
    const onStderr = options.verbose ? (text) => process.stderr.write(text) : undefined;
    const run = installed.ok ? await runKill(system, part, { slow: options.slow, onStderr }) : installed;
    if (run.ok) {
      const { acknowledged, results, failed, lost, twice, seconds } = run.result;
      progress(
        `${name}, ${row.killed} killed: ${acknowledged} acknowledged, ${results} results, ${failed} told failed, ${lost} lost, ${twice} run twice (${seconds} s)`,
      );
      rows.push({ ...row, ...run.result });
    } else {
      progress(`${name}, ${row.killed} killed: ${run.reason}`);
      rows.push({ ...row, reason: run.reason });
    }
  }
  return rows;
}

async function main() {
  const options = parseOptions();
  if (options.help) {
    process.stdout.write(HELP);
    return;
  }
  const rows = [];
  for (const system of SYSTEMS.filter(({ key }) => options.only.includes(key)))
    rows.push(...(await runSystem(system, options)));
  const versions = {};
  for (const { key, version } of rows) {
    const { peer = "farloom" } = SYSTEMS.find((system) => system.key === key);
    if (version) versions[peer[0].toUpperCase() + peer.slice(1)] = version;
  }
  const report = { date: new Date().toISOString().slice(0, 10), machine: describeMachine(), versions, rows };
  if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
  else process.stdout.write(`${options.markdown ? markdownTable(report) : textTable(report)}\n`);
  if (options.write !== undefined) {
    const page = existsSync(options.write) ? readFileSync(options.write, "utf8") : "";
    writeFileSync(options.write, withSection(page, markdownTable(report)));
  }
  process.exitCode = rows.some((row) => !row.reason) ? 0 : 1;
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    void stopAll().finally(() => process.exit(signal === "SIGINT" ? 130 : 143));
  });
}

await main();
