/** Tasks that do something: 10 ms each, and arguments and results of three sizes. */
import { noArguments, registerPython, runBatch, SLEEP_MS, WORKERS } from "../support/bench-fabric.mjs";
import { figure, ratesOf, timedSeconds } from "../support/stats.mjs";

/** The peers' workload: bench/peers/measure.mjs. */
const SLEEPS = 400;
const ROUNDS = 3;

/** 10 ms tasks, against what the workers could do at best. */
export async function sleep10({ bench }) {
  const fn = await registerPython(bench.client, "sleep10");
  await runBatch(fn, noArguments(20));
  const idealSeconds = (SLEEPS * SLEEP_MS) / 1000 / WORKERS;
  const shares = [];
  for (let i = 0; i < ROUNDS; i++) {
    shares.push(idealSeconds / (await timedSeconds(() => runBatch(fn, noArguments(SLEEPS)))));
  }
  const label = `${SLEEPS} tasks of ${SLEEP_MS} ms on ${WORKERS} workers, ideal ÷ measured`;
  return [figure("sleep10_efficiency", label, "", shares, { pick: "best" })];
}

const SIZES = [
  { key: "kb1_per_s", text: "1 KB", bytes: 1_000, start: 500 },
  { key: "kb100_per_s", text: "100 KB", bytes: 100_000, start: 20 },
  { key: "mb1_per_s", text: "1 MB", bytes: 1_000_000, start: 5 },
];

/** No two alike: payload files are content-addressed, and one that is there is not sent again. */
let serial = 0;
function distinctText(bytes) {
  return `${process.pid}-${serial++}-`.padEnd(bytes, "x");
}

function* texts(n, bytes) {
  for (let i = 0; i < n; i++) yield [distinctText(bytes)];
}

/** The same text in and out, as JSON; above 64 KiB it travels as a payload file, by HTTP. */
export async function payloads({ bench, quick }) {
  const echo = await registerPython(bench.client, "echo");
  const figures = [];
  for (const { key, text, bytes, start } of SIZES) {
    const batch = async (n) => {
      // Each result is let go as it is taken, so that the batch's size does not show in the client's memory.
      const group = echo.map(texts(n, bytes), { keepResults: false });
      for await (const { error, value } of group.asCompleted()) {
        if (error) throw error;
        if (value.length !== bytes) throw new Error(`a result of ${value.length} bytes, not ${bytes}`);
      }
    };
    const { n, rates } = await ratesOf(batch, { seconds: quick ? 0.6 : 3, start, max: 50_000 });
    figures.push(figure(key, `${text} in and out, batches of ${n}`, "tasks/s", rates, { pick: "best" }));
  }
  return figures;
}
