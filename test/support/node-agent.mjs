/**
 * A small agent in a process of its own, for tests that kill it: a node manager, a port pair, some calls of one
 * function. It writes the ids of its tasks to keys.json, and marks no result.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildTasks, functionDigest, TaskIdAllocator } from "@farloom/protocol";
import { NodeManager } from "../../apps/endpoint-agent/dist/node/node-manager.js";
import { createPortPair } from "../../apps/endpoint-agent/dist/node/port.js";

const { stateDir, code, calls, workers, runtime, python } = JSON.parse(process.env.AGENT);
const [ours, theirs] = createPortPair();
const quiet = () => undefined;
const log = { info: quiet, warn: quiet, error: quiet, debug: quiet };
const manager = new NodeManager({
  port: theirs,
  log,
  stateDir,
  workers,
  runtimes: { python: { default: python } },
});
const definition = {
  runtime,
  format: "source",
  code: Buffer.from(code),
  entry: "log",
  mode: "at_most_once",
  timeoutMs: 0,
  retries: 0,
  backoffMs: 0,
  env: {},
  resources: {},
};
const digest = functionDigest(definition);
const ids = new TaskIdAllocator();
const items = calls.map((args) => {
  const source = Buffer.from(JSON.stringify([args, {}]));
  return { key: ids.next(), source, start: 0, end: source.length, codec: 1, attempt: 1, options: undefined };
});
writeFileSync(
  join(stateDir, "keys.json"),
  JSON.stringify({ keys: items.map((item) => Buffer.from(item.key, "latin1").toString("hex")) }),
);
ours.onFrame(quiet);
await manager.start();
ours.send({ t: "functions", defs: [{ ...definition, digest }] });
ours.send(buildTasks(items, 0, items.length, () => digest));
