/** A report as a table for a terminal, as Markdown, and as one flat JSON object. */

/** A quarter of the cores in other hands is enough to spoil the numbers. */
const BUSY_SHARE = 0.25;

function numberText(value) {
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : String(value);
}

function spreadText({ samples, min, max }) {
  return samples > 1 ? `${numberText(min)} – ${numberText(max)}` : "";
}

function kindText({ samples, pick }) {
  return samples > 1 ? `${pick} of ${samples}` : "";
}

/** Rows under their titles, in the order in which the titles appear first. */
function sections({ figures }) {
  const byTitle = new Map();
  for (const one of figures) byTitle.set(one.title, [...(byTitle.get(one.title) ?? []), one]);
  return [...byTitle];
}

function machineLine({ machine }) {
  const { cores, cpu, memory_gib: memory, kernel, node, python, postgres } = machine;
  return `${cores} cores (${cpu}), ${memory} GiB, ${kernel}, Node ${node}, Python ${python}, PostgreSQL ${postgres}`;
}

function remarks({ busy_beside: busy, quick, failures, figures }) {
  const notes = figures.filter(({ note }) => note).map(({ key, note }) => `${key}: ${note}`);
  return [
    ...(quick ? ["A quick run: shorter batches, and 100,000 tasks at most in the queue."] : []),
    ...(busy > BUSY_SHARE
      ? [`${Math.round(busy * 100)} % of the machine was in use by others around the run.`]
      : []),
    ...notes,
    ...failures.map(({ name, reason }) => `${name} failed: ${reason}`),
  ];
}

export function textTable(report) {
  const rows = report.figures.map((one) => [
    one.key,
    numberText(one.value),
    one.unit,
    spreadText(one),
    kindText(one),
  ]);
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => row[column].length)));
  const lines = [machineLine(report), ""];
  let at = 0;
  for (const [title, figures] of sections(report)) {
    lines.push(title);
    for (const one of figures) {
      const [key, value, unit, spread, kind] = rows[report.figures.indexOf(one)];
      const cells = [
        key.padEnd(widths[0]),
        value.padStart(widths[1]),
        unit.padEnd(widths[2]),
        spread.padEnd(widths[3]),
      ];
      lines.push(`  ${cells.join("  ")}  ${kind}`.trimEnd());
      at++;
    }
    lines.push("");
  }
  if (at === 0) lines.push("nothing was measured", "");
  return [...lines, ...remarks(report)].join("\n").trimEnd();
}

export function markdownTable(report) {
  const draw = (cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const lines = [`${report.date}. ${machineLine(report)}.`, ""];
  for (const [title, figures] of sections(report)) {
    lines.push(`### ${title}`, "", draw(["what", "value", "unit", "min – max", "", "key"]));
    lines.push("| --- | ---: | --- | --- | --- | --- |");
    for (const one of figures) {
      lines.push(
        draw([one.label, numberText(one.value), one.unit, spreadText(one), kindText(one), `\`${one.key}\``]),
      );
    }
    lines.push("");
  }
  const bullets = remarks(report).map((line) => `- ${line}`);
  return [...lines, ...bullets].join("\n").trimEnd();
}

/** Every figure by its key, then what stands behind it. */
export function flatJson({ figures, ...rest }) {
  const values = Object.fromEntries(figures.map(({ key, value }) => [key, value]));
  const details = Object.fromEntries(figures.map(({ key, ...detail }) => [key, detail]));
  return { ...values, ...rest, figures: details };
}
