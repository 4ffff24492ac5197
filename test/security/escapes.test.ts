/**
 * What a task can reach that is not its own, at each level of isolation: attempts at getting out (escapes/attempts.py, and
 * commands here) against real agents, and a table of what became of them, which stands in SECURITY.md. The table is held
 * in both directions: where the code gets worse this fails, and where the table claims less than there is it fails too.
 */
import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Reply, RestClient } from "../support/rest-client.js";
import {
  ATTEMPTS_CODE,
  agentInfoOf,
  endProcessesWith,
  freshPort,
  LEVELS,
  type Level,
  Levels,
  whyNot,
} from "./levels.js";
import { readTable, type Table, VERDICTS, type Verdict, writeTable } from "./table.js";

const ALL_MS = 180_000;
/** Whether the kernel, or this machine, stops them anyway is a matter of its settings: it may be better than the table. */
const BY_MACHINE = new Set([
  "ptrace a sibling",
  "read a sibling's memory",
  "dump core",
  "open a raw device",
  "ask the metadata address",
  "mount over a folder",
]);
const NAMES = [...ATTEMPTS_CODE.matchAll(/^@escape\ndef (\w+)/gm)].map((match) => match[1]!);
/** By argv; a path of the endpoint's comes as an argument. */
const COMMANDS: Readonly<Record<string, { argv: string[]; outputs?: string[] }>> = {
  "cat the agent's key (command)": { argv: ["cat", "{0}"] },
  "give a link to the agent's key as its output (command)": {
    argv: ["ln", "-s", "{0}", "out"],
    outputs: ["out"],
  },
  "leave a daemon (command)": {
    argv: ["sh", "-c", "setsid env -i sleep 60.{1} >/dev/null 2>&1 & sleep 0.2"],
  },
};

const reason = whyNot();
const table: Table = new Map(
  [...NAMES.map(titleOf), ...Object.keys(COMMANDS)].map((name) => [name, new Map()]),
);
let levels: Levels;
let attempt: string;
const commands = new Map<string, string>();

function titleOf(name: string): string {
  return name
    .replaceAll("_", " ")
    .replaceAll(
      /\b(agent|task|user|worker|sibling)s (?=key|folder|home|memory|environment|secret|control)/g,
      "$1's ",
    );
}

describe.skipIf(reason !== undefined)(`escapes${reason === undefined ? "" : ` (skipped: ${reason})`}`, () => {
  beforeAll(async () => {
    levels = await Levels.open();
    attempt = await levels.register({
      name: "attempt",
      runtime: "python",
      entry: "attempt",
      code: ATTEMPTS_CODE,
    });
    for (const [title, command] of Object.entries(COMMANDS)) {
      const name = title.replaceAll(/[^a-z]+/g, "_");
      commands.set(title, await levels.register({ name, runtime: "command", command }));
    }
  }, ALL_MS);
  afterAll(() => levels?.close(), ALL_MS);

  it(
    "end as the table in SECURITY.md says, at each level",
    async () => {
      await Promise.all(LEVELS.map(tryAll));
      if (process.env.FARLOOM_WRITE_TABLE === "1") writeTable(table, LEVELS);
      const told = readTable();
      const wrong: string[] = [];
      for (const [name, verdicts] of table) {
        for (const [level, verdict] of verdicts) {
          const claim = told.get(name)?.get(level);
          const isBetter = claim !== undefined && VERDICTS.indexOf(verdict) > VERDICTS.indexOf(claim);
          if (verdict !== claim && !(isBetter && BY_MACHINE.has(name)))
            wrong.push(`${name}, at ${level}: ${verdict}; SECURITY.md says ${claim ?? "nothing"}`);
        }
      }
      expect(wrong).toEqual([]);
      expect([...told.keys()]).toEqual([...table.keys()]);
    },
    ALL_MS,
  );

  it("of every kind are stopped or contained from namespaces on", () => {
    for (const [name, verdicts] of table) {
      for (const level of ["namespaces", "user"])
        expect([name, level, verdicts.get(level)]).not.toContain("allowed");
    }
  });

  it("the endpoint says at which level it runs, and which its machine could do", async () => {
    const { isolation } = await agentInfoOf(levels.me, "namespaces");
    expect(isolation).toEqual({
      level: "namespaces",
      offers: ["none", "limits", "namespaces"],
      network: false,
    });
    expect((await agentInfoOf(levels.me, "none")).isolation).toMatchObject({ level: "none" });
  });

  it(
    "a function that wants more isolation than an endpoint has is not taken; one that wants as much runs",
    async () => {
      const wanting = await levels.register({
        name: "wanting",
        runtime: "python",
        code: "def wanting():\n    return 1\n",
        env: { isolation: "namespaces" },
      });
      expect(await levels.run(levels.mallory, "limits", wanting, [])).toMatchObject({
        code: "ISOLATION_UNAVAILABLE",
      });
      // Where the service does not know what the agent has, the agent answers by itself.
      await levels.fabric.database.pool.query("UPDATE endpoint SET agent_info = NULL WHERE name = 'limits'");
      expect(await levels.run(levels.mallory, "limits", wanting, [])).toMatchObject({
        state: "FAILED",
        reason: "not_authorised",
        error: { type: "ISOLATION_UNAVAILABLE" },
      });
      expect(await levels.run(levels.mallory, "namespaces", wanting, [])).toMatchObject({
        state: "SUCCEEDED",
      });
      expect(await levels.run(levels.mallory, "user", wanting, [])).toMatchObject({ state: "SUCCEEDED" });
    },
    ALL_MS,
  );
});

/** All attempts at one level, one after the other, beside a task of somebody else's. */
async function tryAll(level: Level): Promise<void> {
  const { secret } = levels.places.get(level)!;
  const call = { function: attempt, endpoint: level, args: ["victim", { secret }] };
  const victim = (await levels.me.post("/v1/tasks", call)).body.id as string;
  await expect
    .poll(async () => (await levels.me.get(`/v1/tasks/${victim}`)).body, { timeout: 60_000 })
    .toMatchObject({ state: "STARTED" });
  for (const name of NAMES) {
    const verdict = await tryOne(level, name);
    table.get(titleOf(name))!.set(level, verdict);
  }
  for (const title of commands.keys()) table.get(title)!.set(level, await tryCommand(level, title));
  expect((await levels.me.get(`/v1/tasks/${victim}`)).body.state, `${level}: the other task`).toBe("STARTED");
  await levels.me.post(`/v1/tasks/${victim}/cancel`, {});
}

async function tryOne(level: Level, name: string): Promise<Verdict> {
  const mark = `escape-${randomBytes(8).toString("hex")}`;
  const place = { ...levels.places.get(level)!, mark, port: await freshPort() };
  const on = (who: RestClient, what: string) => levels.run(who, level, attempt, [what, place]);
  const end = await on(levels.mallory, name);
  if (JSON.stringify(end).includes("PRIVATE KEY")) return "allowed";
  const { verdict, watch, next } = end.result ?? {};
  if (end.state !== "SUCCEEDED") {
    // Ended with its worker, or without its file: what it gave is all that it got.
    const isExpected = ["WorkerDied", "DiskLimit", "OutOfMemory", "PayloadMissing"].includes(end.error?.type);
    expect([level, name, isExpected ? true : end]).toEqual([level, name, true]);
    return "contained";
  }
  if (next !== undefined) return (await on(levels.me, next)).result.verdict;
  if (watch === undefined) return verdict;
  // Whatever it left must be gone when the next task of the same worker begins.
  const after = await on(levels.mallory, "nothing");
  if (watch === "answers") return after.state === "SUCCEEDED" ? verdict : "allowed";
  const isReached = watch === "port" && (await answers(place.port));
  return endProcessesWith(mark) > 0 || isReached ? "allowed" : verdict;
}

async function tryCommand(level: Level, title: string): Promise<Verdict> {
  const { state } = levels.places.get(level)!;
  const mark = String(10_000_000 + Math.floor(Math.random() * 90_000_000));
  const args = [`${state}/private-key.pem`, mark];
  const end = (await levels.run(levels.mallory, level, commands.get(title)!, args)) as Reply["body"];
  if (JSON.stringify(end).includes("PRIVATE KEY")) return "allowed";
  await levels.run(levels.mallory, level, commands.get(title)!, ["/dev/null", "0"]);
  return endProcessesWith(`60.${mark}`) > 0 ? "allowed" : "stopped";
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("close", () => socket.destroy());
    socket.once("connect", () => socket.destroy());
  });
}
