/** From the line that a running function prints to the client that follows it, over the whole road, the store included. */
import { figure, percentile } from "../support/stats.mjs";

const LINES = 200;
const PAUSE_S = 0.037;
const ROUNDS = 3;
const CODE = `import time
def speak(lines, pause):
    for _ in range(lines):
        print("%.6f" % time.time())
        time.sleep(pause)
`;

/**
 * The function says when it printed, by the clock of this machine. Its pauses are no divisor of the node's looks, so that
 * every wait between two of those occurs.
 */
export async function liveOutput({ bench, quick }) {
  const speak = await bench.client.register({ name: "speak", runtime: "python", code: CODE, entry: "speak" });
  const rounds = [];
  for (let i = 0; i < (quick ? 1 : ROUNDS); i++) rounds.push(await waits(speak.submit([LINES, PAUSE_S])));
  return [50, 95].map((p) =>
    figure(
      `live_output_p${p}_ms`,
      `a printed line until its follower has it, p${p} of ${LINES} lines`,
      "ms",
      rounds.map((sorted) => percentile(sorted, p)),
    ),
  );
}

async function waits(handle) {
  const ms = [];
  let rest = "";
  for await (const { text } of handle.output()) {
    const now = Date.now();
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) ms.push(now - 1000 * Number(line));
  }
  if (ms.length !== LINES) throw new Error(`${ms.length} of ${LINES} lines came`);
  return ms.sort((a, b) => a - b);
}
