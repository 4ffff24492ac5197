/**
 * A client of the Farloom kill test, as a process of its own: submits, writes `task id` for each task that is durable
 * (the acknowledgement), waits for the results, and writes them. farloom_kill.mjs starts it, and may kill it.
 */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { Farloom } from "@farloom/sdk";
import { CODE, TASKS } from "./farloom_task.mjs";

const [url, endpoint, folder, mode] = process.argv.slice(2);
const client = new Farloom({ url, apiKey: process.env.KILL_API_KEY, endpoint, reconnectForMs: 120_000 });
const work = await client.register({
  name: `work-${mode}`,
  runtime: "python",
  code: CODE,
  entry: "work",
  mode,
});
const evidence = join(folder, "evidence");
const handles = Array.from({ length: TASKS }, (_, n) => work.submit([n, evidence]));
await Promise.all(
  handles.map(async (handle, n) => {
    await handle.durable();
    appendFileSync(join(folder, "acks"), `${n} ${handle.id}\n`);
  }),
);
const outcomes = await Promise.all(
  handles.map((handle) =>
    handle.result().then(
      (value) => ["result", value],
      () => ["failed", `${handle.state} ${handle.outcome?.reason ?? ""}`.trim()],
    ),
  ),
);
process.stdout.write(`${JSON.stringify(outcomes)}\n`);
await client.close({ timeoutMs: 1_000 });
