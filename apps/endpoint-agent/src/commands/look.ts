/** What the agent does, and what it wrote. */
import { createReadStream, existsSync, statSync, unwatchFile, watchFile } from "node:fs";
import { createInterface } from "node:readline";
import { prettyFactory } from "pino-pretty";
import { type AgentStatus, agentStatus } from "../agent.js";
import { checkService } from "../checks/service.js";
import { installedSurvival, isStoppedOnPurpose } from "../survive/install.js";
import { gearFields } from "./gear-fields.js";
import { CommandError, DONE, logFile, NOT_THERE, type Place } from "./place.js";

/** Between two looks at a log that is followed: shared file systems tell of no changes. */
const FOLLOW_MS = 250;

export async function status(place: Place): Promise<number> {
  const { root } = place.paths;
  const answer = await agentStatus(root);
  const survive = installedSurvival(root)?.method ?? "none";
  const stopped = isStoppedOnPurpose(root);
  if (!answer.running) {
    const name = answer.identity?.name;
    const text =
      name === undefined
        ? `No endpoint is enrolled in ${root}.`
        : `The agent of endpoint ${name} ${answer.pid ? `does not answer (process ${answer.pid})` : stopped ? "is stopped" : "is not running"}. Start it: farloom endpoint start`;
    place.result({ ...answer, survive, stopped }, text);
    return NOT_THERE;
  }
  const latencyMs = await latencyOf(answer.status);
  place.result({ ...answer, latencyMs, survive, stopped }, fields(answer.status, latencyMs, survive, root));
  return DONE;
}

/** Of a request to the service, while the agent is connected to it. */
async function latencyOf({ link, service }: AgentStatus): Promise<number | undefined> {
  if (link.phase !== "open") return undefined;
  const [first] = await checkService(service);
  return (first?.facts as { latencyMs?: number } | undefined)?.latencyMs;
}

function fields(status: AgentStatus, latencyMs: number | undefined, survive: string, root: string): string {
  const { tasks, link, blocks, agent } = status;
  const since =
    link.phase === "open" ? new Date(link.sinceMs).toISOString().replace(/\.\d+Z$/, "Z") : undefined;
  const latency = latencyMs === undefined ? "" : `, which answers in ${latencyMs} ms`;
  const rows: readonly (readonly [string, string | number | undefined])[] = [
    ["endpoint", status.name],
    ["service", `${status.service}${latency}`],
    ["link", since === undefined ? `not connected: ${JSON.stringify(link)}` : `connected since ${since}`],
    ["workers", blocks === undefined ? agent.workers : undefined],
    ...gearFields(agent),
    ["blocks", blocks && blocksText(blocks)],
    ["last failure", blocks?.lastFailure],
    ["waiting", tasks.waiting + tasks.queued],
    ["running", tasks.handed],
    ["results to deliver", status.unackedResults],
    ["draining", status.draining ? "yes" : undefined],
    ["journal", status.journalWritable ? undefined : "cannot be written: is the disk full?"],
    ["comes back by", survive],
    ["process", status.pid],
    ["folder", root],
  ];
  const shown = rows.filter(([, value]) => value !== undefined);
  const width = Math.max(...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}

/** `2 running, 1 pending (Priority)`: how many blocks are in each state, and what the first of them waits for. */
function blocksText({ blocks }: NonNullable<AgentStatus["blocks"]>): string {
  const states = [...new Set(blocks.map((one) => one.state))];
  const words = states.map((state) => {
    const those = blocks.filter((one) => one.state === state);
    const detail = those.find((one) => one.detail !== undefined)?.detail;
    return `${those.length} ${state}${detail === undefined ? "" : ` (${detail})`}`;
  });
  return words.join(", ") || "none";
}

export async function logs(place: Place, options: { lines: number; follow: boolean }): Promise<number> {
  const path = logFile(place.paths);
  if (!existsSync(path))
    throw new CommandError(
      `there is no log ${path}: the agent writes one when it is started in the background`,
      NOT_THERE,
    );
  const pretty = prettyFactory({
    colorize: process.stdout.isTTY === true,
    ignore: "pid,hostname",
    singleLine: true,
  });
  const print = (line: string): void => {
    if (line === "") return;
    process.stdout.write(place.json ? `${line}\n` : line.startsWith("{") ? pretty(line) : `${line}\n`);
  };
  const size = statSync(path).size;
  for (const line of await lastLines(path, options.lines, size)) print(line);
  if (options.follow) await follow(path, size, print);
  return DONE;
}

/** The last lines of a file up to a length that it had. */
export async function lastLines(path: string, count: number, sizeBytes: number): Promise<string[]> {
  if (sizeBytes === 0 || count === 0) return [];
  const last: string[] = [];
  for await (const line of createInterface({ input: createReadStream(path, { end: sizeBytes - 1 }) })) {
    last.push(line);
    if (last.length > count) last.shift();
  }
  return last;
}

/** Until Ctrl-C. */
function follow(path: string, from: number, print: (line: string) => void): Promise<void> {
  let at = from;
  let rest = "";
  return new Promise((done) => {
    watchFile(path, { interval: FOLLOW_MS }, ({ size }) => {
      if (size < at) at = 0;
      if (size === at) return;
      const stream = createReadStream(path, { start: at, end: size - 1, encoding: "utf8" });
      at = size;
      stream.on("data", (chunk) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) print(line);
      });
    });
    const end = (): void => {
      unwatchFile(path);
      done();
    };
    process.once("SIGINT", end);
    process.once("SIGTERM", end);
  });
}
