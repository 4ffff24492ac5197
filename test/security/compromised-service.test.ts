/**
 * A service that has fallen into other hands, towards a real agent that enforces trust: whatever it sends, nothing of it
 * is begun. Functions and calls leave a file when they run, so that what ran is on the disk.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import {
  buildTasks,
  CODECS,
  canonicalJson,
  encodeFrame,
  FUNCTION_PAYLOAD_TYPE,
  type FunctionDefinition,
  type IdKey,
  INVOCATION_PAYLOAD_TYPE,
  type InvocationStatement,
  keyToUuid,
  makeSignKey,
  optionsDigest,
  publicKeyLine,
  type SignKey,
  signEnvelope,
  signFunction,
  signInvocation,
  type TaskOptions,
  TERMINAL_STATES,
  writeSeal,
} from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { enrolledStateDir } from "../support/agent.js";
import { defineFunction, FakeService, type GotResult } from "../support/fake-service.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const START_MS = 60_000;
const NOW = Math.floor(Date.now() / 1000);
const DAY = 86_400;

const ada = makeSignKey();
const eve = makeSignKey();
const expired = makeSignKey();
const revoked = makeSignKey();
const caller = makeSignKey();

let service: FakeService;
let evidence: string;
let stateDir: string;
let remove: () => void;
let agent: ChildProcess;
let nth = 0;

const key = (name: string, { raw }: SignKey, more: string): string =>
  `[[key]]\nname = "${name}"\nkey = "${publicKeyLine(raw, name)}"\n${more}\n`;

beforeAll(async () => {
  service = await FakeService.start();
  const dir = await enrolledStateDir(service);
  ({ stateDir, remove } = dir);
  evidence = join(stateDir, "evidence");
  mkdirSync(evidence);
  // That it enforces follows from its own configuration: the service is not asked.
  writeFileSync(join(stateDir, "agent.toml"), "shared = true\n");
  const trust = [
    key("ada", ada, 'functions = ["ada/*"]\ninvokes = []'),
    key("expired", expired, 'functions = ["ada/*"]\nnot_after = 2020-01-01T00:00:00Z'),
    key("revoked", revoked, 'functions = ["ada/*"]\ninvokes = ["ada/*"]\nrevoked = true'),
    key("caller", caller, 'invokes = ["ada/*"]'),
  ];
  writeFileSync(join(stateDir, "trust.toml"), trust.join("\n"), { mode: 0o600 });
  await start();
}, START_MS);

afterAll(async () => {
  if (agent) await end("SIGTERM");
  await service?.close();
  remove?.();
}, START_MS);

async function start(): Promise<void> {
  const before = service.hellos.length;
  const args = ["run", "--state-dir", stateDir, "--workers", "1", "--stop-workers", "--drain-ms", "200"];
  const { FARLOOM_AGENT_TRUST: _, ...env } = process.env;
  agent = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "inherit", process.env.FARLOOM_TEST_LOG ? "inherit" : "ignore"],
    env,
  });
  await connected(before);
}

async function connected(before: number): Promise<void> {
  const isThere = () => service.hellos.length > before && service.connected && service.roomTasks > 0;
  await service.until(isThere, "the agent is connected, with credit", 40_000);
}

async function end(signal: NodeJS.Signals): Promise<void> {
  agent.kill(signal);
  if (agent.exitCode === null && agent.signalCode === null) await once(agent, "exit");
}

/** A function of its own that leaves the file `name` when it runs. */
function leaves(name: string): FunctionDefinition {
  const path = JSON.stringify(join(evidence, name));
  return defineFunction({ entry: "f", code: Buffer.from(`def f():\n    open(${path}, "a").write("x")\n`) });
}

const ran = (name: string): string =>
  existsSync(join(evidence, name)) ? readFileSync(join(evidence, name), "utf8") : "";
const hex = (def: FunctionDefinition): string => def.digest.toString("hex");
const signed = (def: FunctionDefinition, more: object = {}, by = ada): string =>
  signFunction({ function: hex(def), name: "ada/f@1", created: NOW, ...more }, by);

interface Sent {
  readonly key?: IdKey;
  readonly args?: Buffer;
  readonly codec?: number;
  readonly options?: TaskOptions;
  readonly attempt?: number;
  readonly ref?: string;
}

/** Sends a task of the function, and these signatures when it is asked for them; what the agent answers. */
async function outcome(def: FunctionDefinition, signatures: string[], sent: Sent = {}): Promise<GotResult> {
  const refs = [sent.ref ?? "ada/f@1"];
  service.onNeed = () => service.send({ t: "functions", defs: [def], refs, signatures: [signatures] });
  service.send({ t: "functions", defs: [def], refs });
  const before = service.results.length;
  const task = { args: Buffer.from("[[],{}]"), ...sent, digest: def.digest };
  const [taskKey] = service.sendTasks([task], { withFunctions: false });
  const came = () => service.results.slice(before).find((result) => result.key === taskKey);
  await service.until(() => came() !== undefined, "an outcome", 30_000);
  return came()!;
}

function expectRefused(result: GotResult, code: string, why: RegExp): void {
  expect(result.state).toBe(TERMINAL_STATES.FAILED);
  expect(result.detail?.error).toMatchObject({ type: code });
  expect(result.detail?.error?.message).toMatch(why);
}

describe("a function", () => {
  it("that its author signed runs", async () => {
    const def = leaves("good");
    expect((await outcome(def, [signed(def)])).state).toBe(TERMINAL_STATES.SUCCEEDED);
    expect(ran("good")).toBe("x");
  });

  const good = () => leaves("signed");
  const swap = (text: string, fields: object) => canonicalJson({ ...JSON.parse(text), ...fields });
  const bodyOf = (def: FunctionDefinition) =>
    canonicalJson({ created: NOW, function: hex(def), name: "ada/f@1" });
  const attacks: Record<string, [(def: FunctionDefinition) => string[], RegExp, string?]> = {
    "without a signature": [() => [], /nobody has signed it/],
    "under the name of one that is signed": [() => [signed(good())], /of another function/],
    "with a forged signature": [
      (def) => [
        swap(signed(def), {
          signatures: [{ keyid: ada.keyId, sig: Buffer.alloc(64, 7).toString("base64") }],
        }),
      ],
      /no signature is by a key/,
    ],
    "signed by a stranger who names a trusted key": [
      (def) => [
        signFunction({ function: hex(def), name: "ada/f@1", created: NOW }, { ...eve, keyId: ada.keyId }),
      ],
      /no signature is by a key/,
    ],
    "with the envelope of another, its payload exchanged": [
      (def) => [swap(signed(good()), { payload: Buffer.from(bodyOf(def)).toString("base64") })],
      /no signature is by a key/,
    ],
    "under another payload type": [
      (def) => [signEnvelope("application/json", Buffer.from(bodyOf(def)), ada)],
      /malformed/,
    ],
    "with the type exchanged afterwards": [
      (def) => [
        swap(signEnvelope("text/plain", Buffer.from(bodyOf(def)), ada), {
          payloadType: FUNCTION_PAYLOAD_TYPE,
        }),
      ],
      /no signature is by a key/,
    ],
    "with an algorithm of the service's choice": [
      (def) => [swap(signed(def), { signatures: [{ alg: "none", keyid: ada.keyId, sig: "" }] })],
      /malformed/,
    ],
    "signed by a key that has expired": [(def) => [signed(def, {}, expired)], /the key expired has expired/],
    "signed by a key that is revoked": [(def) => [signed(def, {}, revoked)], /the key revoked is revoked/],
    "whose signature has expired": [
      (def) => [signed(def, { expires: NOW - 1 })],
      /its signature has expired/,
    ],
    "signed in the future": [(def) => [signed(def, { created: NOW + DAY })], /signed in the future/],
    "signed for a name that the key is not trusted for": [
      (def) => [signed(def, { name: "eve/f@1" })],
      /not trusted for eve\/f@1/,
    ],
    "that only the service calls by a trusted name": [
      (def) => [signed(def, { name: "eve/f@1" }, eve)],
      /no signature is by a key/,
      "ada/f@1",
    ],
    "with base64 that is read leniently": [
      (def) => [signed(def).replace(/"sig":"(.{86})==/, (_, text) => `"sig":"${text}=`)],
      /malformed/,
    ],
    "with a field twice": [
      (def) => [signed(def).replace('"signatures"', '"payload":"e30=","signatures"')],
      /malformed/,
    ],
    "with spaces": [(def) => [` ${signed(def)}`], /malformed/],
    "with an envelope that is too large": [
      (def) => [`${signed(def)}${" ".repeat(5000)}`],
      /nobody has signed it/,
    ],
    "under a hundred envelopes, the good one last": [
      (def) => [...Array.from({ length: 100 }, () => signed(good())), signed(def)],
      /of another function/,
    ],
  };
  it.each(Object.entries(attacks))("%s is not begun", async (_name, [signatures, why, ref]) => {
    const name = `attack-${++nth}`;
    const def = leaves(name);
    expectRefused(await outcome(def, signatures(def), ref ? { ref } : {}), "FUNCTION_UNTRUSTED", why);
    expect(ran(name)).toBe("");
  });

  it("is not begun before the service has told who signed it, and then runs", async () => {
    const def = leaves("late");
    service.onNeed = () => service.send({ t: "functions", defs: [def], refs: ["ada/f@1"] });
    service.send({ t: "functions", defs: [def], refs: ["ada/f@1"] });
    const [taskKey] = service.sendTasks([{ digest: def.digest, args: Buffer.from("[[],{}]") }], {
      withFunctions: false,
    });
    // What is signed and comes after it overtakes it.
    const other = leaves("overtakes");
    await outcome(other, [signed(other)]);
    expect(ran("late")).toBe("");
    service.send({ t: "functions", defs: [def], refs: ["ada/f@1"], signatures: [[signed(def)]] });
    await service.until(() => service.resultOf(taskKey!) !== undefined, "the late result", 30_000);
    expect(ran("late")).toBe("x");
  });

  it("is not begun by the signature of its neighbour in the same frame", async () => {
    const evil = leaves("neighbour");
    const fine = leaves("fine");
    const defs = [evil, fine];
    const swapped = () =>
      service.send({
        t: "functions",
        defs,
        refs: ["ada/f@1", "ada/f@1"],
        signatures: [[signed(fine)], [signed(fine)]],
      });
    service.onNeed = swapped;
    service.send({ t: "functions", defs });
    const tasks = defs.map((def) => ({ digest: def.digest, args: Buffer.from("[[],{}]") }));
    const keys = service.sendTasks(tasks, { withFunctions: false });
    await service.until(() => keys.every((one) => service.resultOf(one)), "both outcomes", 30_000);
    expectRefused(service.resultOf(keys[0]!)!, "FUNCTION_UNTRUSTED", /of another function/);
    expect([ran("neighbour"), ran("fine")]).toEqual(["", "x"]);
  });

  it("under the digest of one that is signed ends the connection, and is not begun", async () => {
    const fine = leaves("digest-of");
    const evil = { ...leaves("evil-bytes"), digest: fine.digest };
    const before = service.hellos.length;
    service.sendRaw(encodeFrame({ t: "functions", defs: [evil], signatures: [[signed(fine)]] }));
    const taskKey = service.ids.next();
    const item = {
      key: taskKey,
      codec: 1,
      attempt: 1,
      options: undefined,
      source: Buffer.from("[[],{}]"),
      start: 0,
      end: 7,
    };
    service.send(buildTasks([item], 0, 1, () => fine.digest));
    await connected(before);
    expect((await outcome(fine, [signed(fine)])).state).toBe(TERMINAL_STATES.SUCCEEDED);
    expect([ran("evil-bytes"), ran("digest-of")]).toEqual(["", "x"]);
  });
});

describe("a call whose arguments are code", () => {
  const shell = defineFunction({
    runtime: "command",
    entry: "",
    code: Buffer.alloc(0),
    command: { argv: ["sh", "-c", "{0}"] },
  });
  const line = (name: string) => Buffer.from(JSON.stringify([[`printf x >> '${join(evidence, name)}'`], {}]));
  const ENDPOINT = () => service.endpointId;

  function call(taskKey: IdKey, args: Buffer, more: Partial<InvocationStatement> = {}, by = caller): string {
    const seal = Buffer.alloc(32);
    writeSeal(seal, 0, taskKey, args);
    const statement: InvocationStatement = {
      task: keyToUuid(taskKey),
      function: hex(shell),
      endpoint: ENDPOINT(),
      arguments: seal.toString("hex"),
      codec: CODECS.json,
      options: optionsDigest(undefined),
      attempts: 1,
      expires: NOW + DAY,
      key: by.keyId,
      ...more,
    };
    return signInvocation(statement, by);
  }
  const run = async (
    taskKey: IdKey,
    args: Buffer,
    invocation: string | undefined,
    sent: Sent = {},
  ): Promise<GotResult> => {
    // What the service has marked is forgotten at a turn's end: until then its id is known, and goes unanswered.
    const other = leaves("between");
    await outcome(other, [signed(other)]);
    return outcome(shell, [signed(shell)], {
      key: taskKey,
      args,
      ...sent,
      ...(invocation === undefined ? {} : { options: { ...sent.options, invocation } }),
    });
  };

  it("runs where its caller signed it, once: neither again, nor under another attempt, nor after kill -9", async () => {
    const taskKey = service.ids.next();
    const invocation = call(taskKey, line("once"));
    expect((await run(taskKey, line("once"), invocation)).state).toBe(TERMINAL_STATES.SUCCEEDED);
    expect(ran("once")).toBe("x");
    expectRefused(await run(taskKey, line("once"), invocation), "INVOCATION_UNTRUSTED", /begun before/);
    expectRefused(
      await run(taskKey, line("once"), invocation, { attempt: 2 }),
      "INVOCATION_UNTRUSTED",
      /begun 1 times, as often as was signed/,
    );
    const before = service.hellos.length;
    await end("SIGKILL");
    await start();
    expect(service.hellos.length).toBeGreaterThan(before);
    expectRefused(await run(taskKey, line("once"), invocation), "INVOCATION_UNTRUSTED", /begun before/);
    expect(ran("once")).toBe("x");
  });

  it("runs as often as was signed, one attempt after the other", async () => {
    const taskKey = service.ids.next();
    const invocation = call(taskKey, line("twice"), { attempts: 2 });
    for (const attempt of [1, 2])
      expect((await run(taskKey, line("twice"), invocation, { attempt })).state).toBe(
        TERMINAL_STATES.SUCCEEDED,
      );
    expectRefused(
      await run(taskKey, line("twice"), invocation, { attempt: 3 }),
      "INVOCATION_UNTRUSTED",
      /2 times/,
    );
    expect(ran("twice")).toBe("xx");
  });

  const attacks: Record<string, [(taskKey: IdKey, args: Buffer) => string | undefined, RegExp, Sent?]> = {
    "that nobody signed": [() => undefined, /nobody has signed this call/],
    "with other arguments": [(k) => call(k, Buffer.from('[["true"],{}]')), /its arguments is not what/],
    "of another task": [(_, args) => call(service.ids.next(), args), /its task is not what/],
    "of another endpoint": [
      (k, args) => call(k, args, { endpoint: "0b6a3f0e-9999-4222-8333-444455556666" }),
      /its endpoint is not what/,
    ],
    "of another function": [
      (k, args) => call(k, args, { function: "ab".repeat(32) }),
      /its function is not what/,
    ],
    "in another codec": [(k, args) => call(k, args, { codec: CODECS.pickle }), /its codec is not what/],
    "with an environment that nobody signed": [
      (k, args) => call(k, args),
      /its options is not what/,
      { options: { env: { LD_PRELOAD: "/tmp/evil.so" } } },
    ],
    "in a directory that nobody signed": [
      (k, args) => call(k, args),
      /its options is not what/,
      { options: { cwd: "/" } },
    ],
    "whose signature has expired": [(k, args) => call(k, args, { expires: NOW - 1 }), /has expired/],
    "signed for ever": [(k, args) => call(k, args, { expires: NOW + 400 * DAY }), /more than 7 days/],
    "signed by a stranger": [(k, args) => call(k, args, {}, eve), /not by a key in trust.toml/],
    "signed by a key that is revoked": [(k, args) => call(k, args, {}, revoked), /revoked is revoked/],
    "signed by a key that may sign functions alone": [
      (k, args) => call(k, args, {}, ada),
      /ada may not call/,
    ],
    "signed in the name of another key": [(k, args) => call(k, args, { key: ada.keyId }), /not by a key/],
    "by the signature of its function": [() => signed(shell), /malformed/],
    "with a function's statement as its own": [
      () => signEnvelope(INVOCATION_PAYLOAD_TYPE, Buffer.from("{}"), caller),
      /malformed/,
    ],
  };
  it.each(Object.entries(attacks))("%s is not begun", async (_name, [invocation, why, sent]) => {
    const name = `call-${++nth}`;
    const taskKey = service.ids.next();
    expectRefused(
      await run(taskKey, line(name), invocation(taskKey, line(name)), sent),
      "INVOCATION_UNTRUSTED",
      why,
    );
    expect(ran(name)).toBe("");
  });

  it("that comes pickled to a function that is trusted is not begun", async () => {
    const def = leaves("pickled");
    const path = join(evidence, "unpickled");
    // os.system("printf x > path"), as soon as it is read.
    const pickle = Buffer.from(`cposix\nsystem\n(V/usr/bin/printf x > ${path}\ntR.`);
    const result = await outcome(def, [signed(def)], { args: pickle, codec: CODECS.pickle });
    expectRefused(result, "INVOCATION_UNTRUSTED", /nobody has signed this call/);
    expect([ran("pickled"), ran("unpickled")]).toEqual(["", ""]);
  });
});

describe("trust.toml", () => {
  it("counts as soon as it is another one: a key that is gone runs nothing more, and a broken file trusts nobody", async () => {
    const path = join(stateDir, "trust.toml");
    const text = readFileSync(path, "utf8");
    const def = leaves("changes");
    expect((await outcome(def, [signed(def)])).state).toBe(TERMINAL_STATES.SUCCEEDED);
    writeFileSync(path, text.replace('name = "ada"', 'name = "ada"\nrevoked = true'));
    await expect
      .poll(async () => (await outcome(def, [signed(def)])).detail?.error?.message, { timeout: 20_000 })
      .toMatch(/ada is revoked/);
    writeFileSync(path, "mode = \n");
    await expect
      .poll(async () => (await outcome(def, [signed(def)])).detail?.error?.message, { timeout: 20_000 })
      .toMatch(/is not TOML/);
    const runs = ran("changes").length;
    writeFileSync(path, text);
    await expect
      .poll(async () => (await outcome(def, [signed(def)])).state, { timeout: 20_000 })
      .toBe(TERMINAL_STATES.SUCCEEDED);
    expect(ran("changes")).toBe("x".repeat(runs + 1));
  });
});
