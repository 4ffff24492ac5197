/**
 * One client as a process: calls by the SDK and by REST, in a seeded mix, and a history of what it did and was told.
 *
 *   K1  It writes down what it is about to do before it does it, and what it was told before it acts on that.
 *   K2  Killed and started again, it takes up every task that its history says was acknowledged and has no end.
 *   K3  It says `acked` for nothing but the durable mark or a 2xx, and `told` for nothing but a terminal state.
 *
 * Its order comes in FARLOOM_FAULTS_CLIENT; {stop, timeoutMs} on the IPC channel ends it.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Farloom, TaskError } from "@farloom/sdk";
import { seededRandom } from "../random.mjs";
import { Recorder, readRecords } from "../record.mjs";
import { DEFAULT_MIX, drawOrder } from "./mix.mjs";
import { RestSide, refusalOf } from "./rest-side.mjs";
import { digestOf, saysOf } from "./statements.mjs";

const order = JSON.parse(process.env.FARLOOM_FAULTS_CLIENT ?? "{}");
const {
  name,
  url,
  key,
  folder,
  endpoints,
  seed,
  mix = DEFAULT_MIX,
  rate = 20,
  count = Number.POSITIVE_INFINITY,
} = order;
/** Tasks that may be open at once: beyond that it waits, as a caller would. */
const OUTSTANDING = order.outstanding ?? 600;
const TICK_MS = 50;
/** No fault lasts as long. */
const CONNECT_MS = 600_000;

const historyFile = join(folder, "history", `${name}.jsonl`);
const before = readRecords(historyFile);
const incarnation = 1 + before.filter(({ ev }) => ev === "begin").length;
const prefix = `${name.replace("client-", "c")}.${incarnation}`;
const random = seededRandom(seed, name, incarnation);
const history = new Recorder(historyFile);
const evidence = join(folder, "evidence");

const farloom = new Farloom({ url, apiKey: key, connectForMs: CONNECT_MS, reconnectForMs: CONNECT_MS });
const functions = new Map();
/** Nonces of what has no end yet. */
const open = new Set();
const rest = new RestSide({ url, key, history, settled: (nonce) => open.delete(nonce) });
let submitted = before.filter(({ ev }) => ev === "submit").length;
let isStopping = false;

history.write("begin", { incarnation });
history.flush();

function fnOf(fnName) {
  if (!functions.has(fnName)) functions.set(fnName, farloom.function(`faults-${fnName}`));
  return functions.get(fnName);
}

/** What every submission says of itself (K1). */
function describe(drawn, nonce, task, endpoint, extra = {}) {
  const { fn, options, recipe, via, args } = drawn;
  history.write("submit", {
    nonce,
    ...(task && { task }),
    fn,
    recipe,
    via,
    endpoint,
    mode: options.mode,
    retries: options.retries ?? 0,
    ...(options.queueTimeoutMs && { queueTimeoutMs: options.queueTimeoutMs }),
    ...(fn === "large" && { sha: createHash("sha256").update(args[0]).digest("hex").slice(0, 16) }),
    ...extra,
  });
}

function submitByLink(drawn) {
  const endpoint = random.pick(endpoints);
  for (let i = 0; i < drawn.n; i++) {
    const nonce = `${prefix}.${++submitted}`;
    open.add(nonce);
    try {
      const handle = fnOf(drawn.fn).submit([evidence, nonce, ...drawn.args], { ...drawn.options, endpoint });
      describe(drawn, nonce, handle.id, endpoint);
      void follow(drawn, nonce, handle);
    } catch (error) {
      history.write("refused", { nonce, ...refusalOf(error) });
      open.delete(nonce);
    }
  }
}

async function follow(drawn, nonce, handle) {
  const task = handle.id;
  const durable = handle.durable().then(
    // A cancel may have ended it here, before anything was sent: that is no word of the service (K3).
    () => handle.outcome?.state !== "CANCELLED" && history.write("acked", { nonce, task }),
    (error) => history.write("refused", { nonce, task, ...refusalOf(error) }),
  );
  if (drawn.cancelAfterMs !== undefined) void cancelLater(drawn, nonce, handle);
  try {
    const value = await handle.result();
    tellOfLink(nonce, handle, value);
  } catch (error) {
    if (error instanceof TaskError) tellOfLink(nonce, handle, undefined, error.remoteMessage);
    else {
      // Not an end of the task but of this side's knowledge: where it was acknowledged, REST will say.
      await durable;
      history.write("unsure", { nonce, task, code: error.code });
      if (handle.outcome?.state === "SUCCEEDED" || acknowledged(error)) rest.watch(task, nonce);
      else open.delete(nonce);
      return;
    }
  }
  open.delete(nonce);
  if (handle.outcome?.state === "CANCELLED") rest.watch(task, nonce);
}

/** Whether an error of the client's own says nothing about the task: it may have been taken. */
function acknowledged(error) {
  return !refusalOf(error).final;
}

function tellOfLink(nonce, handle, value, message) {
  const { state, reason, attempt } = handle.outcome;
  history.write("told", {
    nonce,
    task: handle.id,
    state,
    reason,
    attempt,
    via: "link",
    ...saysOf(message),
    ...(value !== undefined && { value: { nonce: value.nonce, sha: value.sha }, result: digestOf(value) }),
  });
}

async function cancelLater(drawn, nonce, handle) {
  if (drawn.cancelAfterMs > 0) await sleep(drawn.cancelAfterMs);
  if (handle.outcome !== undefined) return;
  history.write("cancel", { nonce, task: handle.id });
  history.flush();
  await handle.cancel().catch(() => {});
}

function submitByRest(drawn) {
  const endpoint = random.pick(endpoints);
  const nonces = Array.from({ length: drawn.n }, () => `${prefix}.${++submitted}`);
  const idempotencyKey = `${nonces[0]}.key`;
  for (const nonce of nonces) {
    open.add(nonce);
    describe(drawn, nonce, undefined, endpoint, { key: idempotencyKey });
  }
  history.flush();
  const { deadlineMs, ...options } = drawn.options;
  const calls = nonces.map((nonce) => ({
    args: [evidence, nonce, ...drawn.args],
    options: deadlineMs === undefined || !rest.knowsDeadline ? options : drawn.options,
  }));
  const body = { function: `faults-${drawn.fn}`, endpoint, calls };
  void rest.submit({
    nonces,
    idempotencyKey,
    body,
    again: random.chance(0.3),
    cancelAfterMs: drawn.cancelAfterMs,
  });
}

/** K2 */
function takeUp() {
  const told = new Set(before.filter(({ ev }) => ev === "told").map(({ task }) => task));
  for (const { ev, task, nonce } of before) {
    if (ev !== "acked" || told.has(task)) continue;
    open.add(nonce);
    rest.watch(task, nonce);
  }
}

async function main() {
  takeUp();
  await rest.learn();
  let budget = 1;
  let lastMs = performance.now();
  while (!isStopping && submitted < count) {
    const now = performance.now();
    budget = Math.min(budget + (rate * (now - lastMs)) / 1000, 4 * rate);
    lastMs = now;
    while (budget > 0 && open.size < OUTSTANDING && submitted < count) {
      const drawn = drawOrder(mix, random);
      budget -= drawn.n;
      if (drawn.via === "rest") submitByRest(drawn);
      else submitByLink(drawn);
    }
    await sleep(TICK_MS);
  }
  history.write("idle", { submitted });
}

/** Waits for what is open, and ends. */
async function end(timeoutMs) {
  isStopping = true;
  const until = performance.now() + timeoutMs;
  while ((open.size > 0 || rest.busy > 0) && performance.now() < until) await sleep(50);
  history.write("done", { submitted, open: open.size });
  history.close();
  await farloom.close({ timeoutMs: 1_000 });
  process.exit(0);
}

process.on("message", (message) => {
  const { stop, timeoutMs } = /** @type {any} */ (message);
  if (stop) void end(timeoutMs ?? 30_000);
});
// The campaign's end is ours.
process.on("disconnect", () => process.exit(0));

await main();
