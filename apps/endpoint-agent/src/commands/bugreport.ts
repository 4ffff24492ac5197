/**
 * A file to send to whoever helps: versions, configuration, the last lines of the log, what doctor found. No secrets:
 *
 * 1. Files that hold keys (private-key.pem, blocks/*.json, launch.sh) are never read.
 * 2. What is read goes through `masked`, whatever it is: a secret may stand in a worker_init, a proxy's URL, a log.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { agentStatus } from "../agent.js";
import { SOFTWARE } from "../agent-info.js";
import { type Check, checkLines } from "../checks/check.js";
import { installedSurvival } from "../survive/install.js";
import { lastLines } from "./look.js";
import { CommandError, DONE, FAILED, logFile, type Place } from "./place.js";

const LOG_LINES = 1_000;
/** Of a block's log, from its end. */
const BLOCK_LOG_LINES = 200;
const MOST_BLOCK_LOGS = 5;

export async function bugreport(
  place: Place,
  options: { output: string | undefined; checks: readonly Check[] },
): Promise<number> {
  const { paths } = place;
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  const path = resolve(options.output ?? `farloom-bugreport-${stamp}.tar.gz`);
  const staging = mkdtempSync(join(tmpdir(), "farloom-bugreport-"));
  try {
    const folder = join(staging, "farloom-bugreport");
    mkdirSync(folder);
    const files = new Map<string, string>([
      ["versions.json", json(versions(place))],
      ["doctor.txt", checkLines(options.checks)],
      ["doctor.json", json(options.checks)],
      ["status.json", json(await agentStatus(paths.root))],
      ["survive.json", json(installedSurvival(paths.root) ?? null)],
    ]);
    if (existsSync(paths.configFile)) files.set("agent.toml", readFileSync(paths.configFile, "utf8"));
    for (const [name, from, lines] of logsOf(place)) {
      files.set(name, (await lastLines(from, lines, statSync(from).size)).join("\n"));
    }
    for (const [name, text] of files) writeFileSync(join(folder, name), masked(text), { mode: 0o600 });
    const tar = spawnSync("tar", ["-czf", path, "-C", staging, "farloom-bugreport"], { encoding: "utf8" });
    if (tar.status !== 0) throw new CommandError(`tar failed: ${tar.stderr || tar.error?.message}`, FAILED);
    place.result(
      { path, files: [...files.keys()] },
      `${path}\nholds ${[...files.keys()].join(", ")}. Secrets are masked; look through it before you send it.`,
    );
    return DONE;
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

function versions({ env }: Place): unknown {
  const named = Object.entries(env).filter(([name]) =>
    /^(FARLOOM|SLURM_CONF|HTTPS?_PROXY|NO_PROXY|TMPDIR)/i.test(name),
  );
  return {
    software: SOFTWARE,
    node: process.versions.node,
    platform: `${process.platform} ${release()} ${process.arch}`,
    environment: Object.fromEntries(named),
  };
}

function logsOf({ paths }: Place): (readonly [string, string, number])[] {
  const own = [logFile(paths)].filter(existsSync).map((path) => ["agent.log", path, LOG_LINES] as const);
  const folder = join(paths.root, "blocks", "logs");
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".log")) : [];
  const newest = names
    .map((name) => ({ name, atMs: statSync(join(folder, name)).mtimeMs }))
    .sort((a, b) => b.atMs - a.atMs)
    .slice(0, MOST_BLOCK_LOGS);
  return [
    ...own,
    ...newest.map(({ name }) => [`block-${name}`, join(folder, name), BLOCK_LOG_LINES] as const),
  ];
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

const MASK = "[masked]";

/** The text without what looks like a secret: by its name, by where it stands, or by its looks. */
export function masked(text: string): string {
  return (
    text
      .replace(/-----BEGIN [^-]*PRIVATE KEY-----[\s\S]*?(-----END [^-]*-----|$)/g, MASK)
      // ://user:password@
      .replace(/(:\/\/)[^\s/@"']+@/g, `$1${MASK}@`)
      .replace(/\b(Bearer|Basic)\s+[\w.~+/=-]+/gi, `$1 ${MASK}`)
      // NAME=value, "name": "value", name = 'value', where the name says that it is one.
      .replace(
        /((?:[\w.-]*(?:secret|token|passw(?:or)?d|passphrase|api[_-]?key|private[_-]?key|credential|enrol\w*code)[\w.-]*|[\w.-]*_(?:key|code|pass|pw))["']?\s*[=:]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;}\]"']+)/gi,
        `$1${MASK}`,
      )
      // What only a generator writes: long, with letters of both cases and digits. Digests are of one case.
      .replace(/\b[\w-]{24,}\b/g, (word) => (isRandom(word) ? MASK : word))
  );
}

function isRandom(word: string): boolean {
  const switches = (word.match(/[a-z](?=[A-Z0-9])|[A-Z](?=[a-z0-9])|\d(?=[A-Za-z])/g) ?? []).length;
  return /[a-z]/.test(word) && /[A-Z]/.test(word) && /\d/.test(word) && switches >= word.length / 5;
}
