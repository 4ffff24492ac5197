/** What a run found, for people and for programs. */

const SHOWN = 25;

const line = (label, value) => `  ${label.padEnd(22)} ${value}`;
const pairs = (map) =>
  Object.entries(map)
    .toSorted(([, a], [, b]) => b - a)
    .map(([name, n]) => `${name} ${n}`)
    .join(", ");

/** One line that does the same again. */
export function repeatLine({ seed, minutes, plant, only, rate }) {
  const more = [
    plant && `--plant ${plant}`,
    only && `--only ${only.join(",")}`,
    rate && `--rate ${rate}`,
  ].filter(Boolean);
  return `npm run faults -- --minutes ${minutes} --seed ${seed}${more.length > 0 ? ` ${more.join(" ")}` : ""}`;
}

export function campaignText(report, options) {
  const { counts, violations, missed, missing, could_not: couldNot, crashes } = report;
  const lines = [
    `Campaign of seed ${report.seed}, ${report.minutes} minutes (${report.seconds} s in all)`,
    line("faults", `${counts.faults} of ${counts.kinds} kinds`),
    line(
      "tasks",
      `${counts.submitted} submitted, ${counts.acknowledged} acknowledged, ${counts.refused} refused`,
    ),
    line("ends", pairs(counts.states)),
    line("calls", pairs(counts.recipes)),
    line("evidence", `${counts.starts} starts in ${counts.traces} lines`),
    line("violations", String(violations.length)),
  ];
  for (const { rule, task, nonce, text } of violations.slice(0, SHOWN))
    lines.push(`    ${rule}: ${[task, nonce, text].filter(Boolean).join("  ")}`);
  if (violations.length > SHOWN) lines.push(`    … and ${violations.length - SHOWN} more`);
  for (const text of missed) lines.push(line("floor missed", text));
  for (const { name, why } of missing) lines.push(line("not here", `${name}: ${why}`));
  for (const text of couldNot) lines.push(line("could not be done", text.split("\n")[0]));
  for (const { name, code, signal, tail } of crashes)
    lines.push(
      line("ended by itself", `${name}, ${signal ?? code}: ${tail.split("\n").at(-1)?.slice(0, 300)}`),
    );
  if (violations.length > 0) lines.push(line("kept", report.folder));
  lines.push(line("again", repeatLine(options)));
  return lines.join("\n");
}

export function scheduleText({ schedule }) {
  return schedule.map(({ atMs, fault }) => `${(atMs / 1000).toFixed(1).padStart(7)} s  ${fault}`).join("\n");
}

/** The JSON of a campaign: what others read is at the top. */
export function campaignJson(report, options) {
  const { counts, violations, schedule, missing, crashes } = report;
  return {
    seed: report.seed,
    minutes: report.minutes,
    seconds: report.seconds,
    faults: counts.faults,
    kinds: counts.kinds,
    tasks: counts.acknowledged,
    violations: violations.length,
    floor_met: report.missed.length === 0,
    floor_missed: report.missed,
    counts,
    found: violations.slice(0, 200),
    crashes: crashes.length,
    ended: crashes.map(({ name, code, signal }) => ({ name, code, signal })),
    missing,
    could_not: report.could_not,
    schedule,
    again: repeatLine(options),
    ...(report.recovery && { recovery: report.recovery }),
    ...(report.slopes && { slopes: report.slopes }),
  };
}
