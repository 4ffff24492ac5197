/** Where the time of a process went: the hottest functions of the profiles that `node --cpu-prof` writes at its end. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

const TOP = 15;
/** What V8 calls the time in which nothing ran. */
const NOT_WORK = new Set(["(idle)", "(root)"]);

/** Arguments of Node for a process that is to be profiled into `folder`. */
export function profileArgs(folder, part) {
  mkdirSync(folder, { recursive: true });
  return ["--cpu-prof", `--cpu-prof-dir=${folder}`, `--cpu-prof-name=${part}-${Date.now()}.cpuprofile`];
}

function placeOf({ functionName, url, lineNumber }) {
  const file = url.replace(/^.*\/node_modules\//, "").replace(/^file:\/\/.*\/((?:apps|packages)\/)/, "$1");
  return `${functionName || "(anonymous)"}${file ? `  ${file}:${lineNumber + 1}` : ""}`;
}

/** Own time of each function, the longest first, as per cent of the time in which the process worked. */
function hottest({ nodes, samples, timeDeltas }) {
  const byId = new Map(nodes.map((node) => [node.id, node.callFrame]));
  const ownUs = new Map();
  let workedUs = 0;
  for (let i = 0; i < samples.length; i++) {
    const frame = byId.get(samples[i]);
    if (NOT_WORK.has(frame.functionName)) continue;
    const place = placeOf(frame);
    ownUs.set(place, (ownUs.get(place) ?? 0) + timeDeltas[i]);
    workedUs += timeDeltas[i];
  }
  const sorted = [...ownUs].toSorted(([, a], [, b]) => b - a).slice(0, TOP);
  return { workedUs, rows: sorted.map(([place, us]) => ({ place, percent: (100 * us) / workedUs })) };
}

/** The profiles of `folder` as text. */
export function describeProfiles(folder) {
  const files = readdirSync(folder).filter((name) => name.endsWith(".cpuprofile"));
  return files
    .flatMap((name) => {
      const { workedUs, rows } = hottest(JSON.parse(readFileSync(join(folder, name), "utf8")));
      const head = `${basename(name)}: ${(workedUs / 1e6).toFixed(1)} s of work, own time of`;
      return [
        head,
        ...rows.map(({ place, percent }) => `  ${percent.toFixed(1).padStart(5)} %  ${place}`),
        "",
      ];
    })
    .join("\n");
}
