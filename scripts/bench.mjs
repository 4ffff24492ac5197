#!/usr/bin/env node
/**
 * `npm run bench`: starts a whole fabric on this machine and measures it. What, how and how to read it:
 * bench/README.md; the cases: bench/main.mjs.
 *
 * Progress goes to stderr; stdout carries the result alone. Ctrl-C stops every process and removes every folder.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const BUILT = [
  "apps/web-service/dist/bundle/main.js",
  "apps/endpoint-agent/dist/bundle/main.js",
  "packages/sdk/dist/index.js",
];
/** Between these lines of a page --write puts the table. */
const BEGIN = "<!-- bench:begin, made by npm run bench -->";
const END = "<!-- bench:end -->";

const HELP = `Usage: npm run bench [-- OPTIONS]

Starts a web service, its PostgreSQL and an endpoint with two workers on this machine, and measures them.

  --quick        shorter: about two minutes on a quiet machine; 100,000 queued tasks in place of 1,000,000
  --only LIST    only these cases, by comma: CASES
  --json         one JSON object as the last line, in place of the table
  --markdown     the table as Markdown
  --profile DIR  write CPU profiles of service and agent into DIR, and tell the hottest functions (on stderr);
                 not of the cases endpoints and depth, which have fabrics of their own
  --write FILE   put the Markdown table into FILE, between its bench:begin and bench:end lines
  -h, --help     this

Exit status: 0, 1 when a case failed or a process was left behind, 2 for wrong usage.
`;

/** @returns {never} */
function usageError(message) {
  process.stderr.write(`bench: ${message}\nTry --help.\n`);
  process.exit(2);
}

function parseOptions() {
  const flag = /** @type {const} */ ({ type: "boolean", default: false });
  try {
    return parseArgs({
      options: {
        quick: flag,
        only: { type: "string", multiple: true },
        json: flag,
        markdown: flag,
        profile: { type: "string" },
        write: { type: "string" },
        help: { ...flag, short: "h" },
      },
    }).values;
  } catch (error) {
    return usageError(error instanceof Error ? error.message : String(error));
  }
}

/** A fresh clone is built first; otherwise what is there is measured. */
function ensureBuilt() {
  if (BUILT.every((file) => existsSync(join(ROOT, file)))) return;
  process.stderr.write("building …\n");
  const { status } = spawnSync("npm", ["run", "--silent", "build"], { cwd: ROOT, stdio: ["ignore", 2, 2] });
  if (status !== 0) {
    process.stderr.write("bench: the build failed; 'npm start' says more\n");
    process.exit(1);
  }
}

function writeInto(file, table) {
  const page = readFileSync(file, "utf8");
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${file} lacks the lines ${BEGIN} and ${END}`);
  writeFileSync(file, `${page.slice(0, begin + BEGIN.length)}\n\n${table}\n\n${page.slice(end)}`);
}

/** On a signal everything is stopped, and then this process. */
function stopOnSignal(stopEverything) {
  const state = { isStopping: false };
  for (const [signal, status] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 })) {
    process.on(signal, () => {
      if (state.isStopping) return;
      state.isStopping = true;
      process.stderr.write("\nstopping …\n");
      void stopEverything().finally(() => process.exit(status));
    });
  }
  return state;
}

async function main() {
  const values = parseOptions();
  ensureBuilt();
  const { CASES, runBench, stopEverything } = await import("../bench/main.mjs");
  const { flatJson, markdownTable, textTable } = await import("../bench/support/report.mjs");
  const { describeProfiles } = await import("../bench/support/profile.mjs");
  if (values.help) {
    process.stdout.write(HELP.replace("CASES", CASES.join(", ")));
    return;
  }
  const only = (values.only ?? []).flatMap((text) => text.split(",")).filter(Boolean);
  const unknown = only.find((name) => !CASES.includes(name));
  if (unknown !== undefined) usageError(`no case "${unknown}"; there are ${CASES.join(", ")}`);
  if (values.json && values.markdown) usageError("--json and --markdown exclude each other");
  if (values.write && !readFileSync(values.write, "utf8").includes(BEGIN))
    usageError(`no ${BEGIN} in the file`);

  const stopped = stopOnSignal(stopEverything);
  const report = await runBench({
    quick: values.quick === true,
    profile: values.profile && resolve(values.profile),
    wants: (name) => only.length === 0 || only.includes(name),
    progress: (line) => process.stderr.write(`${line}\n`),
  }).catch((error) => {
    // Once everything is being stopped, whatever was under way fails; the signal handler ends the process.
    if (stopped.isStopping) return new Promise(() => {});
    throw error;
  });
  if (values.profile) process.stderr.write(`\n${describeProfiles(values.profile)}\n`);
  if (values.write) writeInto(values.write, markdownTable(report));
  if (values.json) process.stdout.write(`${JSON.stringify(flatJson(report))}\n`);
  else process.stdout.write(`${values.markdown ? markdownTable(report) : textTable(report)}\n`);
  process.exitCode = report.failures.length > 0 ? 1 : 0;
}

await main();
