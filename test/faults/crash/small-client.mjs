/**
 * One client of a bench: carries out a list of calls, writes the history that README.md describes, and ends with 0
 * once it has heard the end of everything. Killed and started again, it takes up what it was acknowledged, sends
 * again what bears an idempotency key, and goes on with the calls that it had not made.
 *
 * A call: {fn, n?, args?, options?, via?: "link" | "rest", cancelAfterMs?, again?, waitFor?: "acked" | "told" | "go",
 * afterMs?}; `waitFor` says what the next call waits for.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Farloom, TaskError } from "@farloom/sdk";
import { Recorder, readRecords } from "../record.mjs";
import { RestSide, refusalOf } from "../workload/rest-side.mjs";
import { digestOf } from "../workload/statements.mjs";

const CONNECT_MS = 120_000;

const plan = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8"));
const { name, url, key, folder, endpoint, calls } = plan;
const historyFile = join(folder, "history", `${name}.jsonl`);
const before = readRecords(historyFile);
const history = new Recorder(historyFile);
const evidence = join(folder, "evidence");
const farloom = new Farloom({
  url,
  apiKey: key,
  endpoint,
  connectForMs: CONNECT_MS,
  reconnectForMs: CONNECT_MS,
  requestAttempts: 60,
});
// Whatever it waits for, it is not over before its list is.
setInterval(() => {}, 60_000);
const rest = new RestSide({ url, key, history, settled: (nonce) => settle(nonce) });
/** Whoever waits for the end of a nonce. */
const open = new Map();

function begin(nonce) {
  let end;
  const ended = new Promise((resolve) => {
    end = resolve;
  });
  open.set(nonce, { ended, end });
  return ended;
}

function settle(nonce) {
  open.get(nonce)?.end();
  open.delete(nonce);
}

/** The nonces of call `i`; they are the same after a restart. */
function noncesOf(call, i) {
  return Array.from({ length: call.n ?? 1 }, (_, k) => `${name}.${i}.${k}`);
}

function describe(call, nonce, more) {
  const { fn, via = "link", options = {}, args = [] } = call;
  history.write("submit", {
    nonce,
    fn,
    recipe: fn,
    via,
    endpoint,
    mode: options.mode ?? "at_most_once",
    retries: options.retries ?? 0,
    ...(fn === "large" && { sha: createHash("sha256").update(args[0]).digest("hex").slice(0, 16) }),
    ...more,
  });
}

async function byLink(call, i) {
  const fn = farloom.function(`faults-${call.fn}`);
  const handles = noncesOf(call, i).map((nonce) => {
    const ended = begin(nonce);
    const handle = fn.submit([evidence, nonce, ...(call.args ?? [])], call.options ?? {});
    describe(call, nonce, { task: handle.id });
    return { nonce, handle, ended };
  });
  history.flush();
  for (const each of handles) void follow(call, each);
  if (call.waitFor === "acked")
    await Promise.all(handles.map(({ handle }) => handle.durable().catch(() => {})));
  if (call.waitFor === "told") await Promise.all(handles.map(({ ended }) => ended));
}

async function follow(call, { nonce, handle }) {
  const task = handle.id;
  const durable = handle.durable().then(
    () => history.write("acked", { nonce, task }),
    (error) => history.write("refused", { nonce, task, ...refusalOf(error) }),
  );
  if (call.cancelAfterMs !== undefined) void cancelLater(call, nonce, handle);
  try {
    tell(nonce, handle, await handle.result());
  } catch (error) {
    if (error instanceof TaskError) tell(nonce, handle, undefined);
    else {
      await durable;
      history.write("unsure", { nonce, task, code: error.code });
      if (refusalOf(error).final) settle(nonce);
      else rest.watch(task, nonce);
      return;
    }
  }
  // What a cancel confirmed is told by REST.
  if (handle.outcome?.state === "CANCELLED") rest.watch(task, nonce);
  else settle(nonce);
}

function tell(nonce, handle, value) {
  const { state, reason, attempt } = handle.outcome;
  const known =
    value === undefined ? {} : { value: { nonce: value.nonce, sha: value.sha }, result: digestOf(value) };
  history.write("told", { nonce, task: handle.id, state, reason, attempt, via: "link", ...known });
}

async function cancelLater({ cancelAfterMs }, nonce, handle) {
  await handle.durable().catch(() => {});
  if (cancelAfterMs > 0) await sleep(cancelAfterMs);
  if (handle.outcome !== undefined) return;
  history.write("cancel", { nonce, task: handle.id });
  history.flush();
  await handle.cancel().catch(() => {});
}

async function byRest(call, i, isNew = true) {
  const nonces = noncesOf(call, i);
  const idempotencyKey = `${folder}.${name}.${i}`.slice(-150).replaceAll(/[^a-zA-Z0-9.-]/g, "-");
  const ends = nonces.map(begin);
  if (isNew) for (const nonce of nonces) describe(call, nonce, { key: idempotencyKey });
  history.flush();
  const body = {
    function: `faults-${call.fn}`,
    endpoint,
    calls: nonces.map((nonce) => ({
      args: [evidence, nonce, ...(call.args ?? [])],
      options: call.options ?? {},
    })),
  };
  const { cancelAfterMs, again = false } = call;
  const taken = rest.submit({ nonces, idempotencyKey, body, again, cancelAfterMs });
  if (call.waitFor === "acked") await taken;
  if (call.waitFor === "told") await Promise.all(ends);
}

/** What an earlier process of this client had done. */
function takeUp() {
  const told = new Set(before.filter(({ ev }) => ev === "told").map(({ nonce }) => nonce));
  const answered = new Set(
    before.filter(({ ev }) => ev === "acked" || ev === "refused").map(({ nonce }) => nonce),
  );
  for (const { ev, nonce, task } of before) {
    if (ev !== "acked" || told.has(nonce)) continue;
    begin(nonce);
    rest.watch(task, nonce);
  }
  return {
    answered,
    submitted: new Set(before.filter(({ ev }) => ev === "submit").map(({ nonce }) => nonce)),
  };
}

const { answered, submitted } = takeUp();
for (const [i, call] of calls.entries()) {
  if (call.afterMs) await sleep(call.afterMs);
  const nonces = noncesOf(call, i);
  const isNew = !nonces.some((nonce) => submitted.has(nonce));
  if (call.via === "rest") {
    if (isNew || !nonces.every((nonce) => answered.has(nonce))) await byRest(call, i, isNew);
  } else if (isNew) await byLink(call, i);
}
while (open.size > 0 || rest.busy > 0) await sleep(20);
history.write("done");
history.close();
await farloom.close({ timeoutMs: 2_000 });
process.exit(0);
