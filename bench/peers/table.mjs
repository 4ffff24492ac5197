/** Rows to text: an aligned table for a terminal, the same as Markdown, and the ratios Farloom / peer. */

/** Farloom divided by the peer, for each thing measured; undefined where one of the two is missing. */
export function ratiosOf(farloom, row) {
  const divide = (pick) => {
    const ours = farloom && pick(farloom);
    const theirs = pick(row);
    return ours && theirs ? Number((ours / theirs).toPrecision(3)) : undefined;
  };
  return {
    noop_per_s: divide((r) => r.noop_per_s),
    rtt_p50: divide((r) => r.rtt_ms?.p50),
    sleep10_efficiency: divide((r) => r.sleep10_efficiency),
    array_s: divide((r) => r.array_s),
    import_ms: divide((r) => r.import_ms),
  };
}

const HEAD = [
  ...[
    "",
    "version",
    "durable",
    "no-op/s",
    "×",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "×",
    "10 ms work",
    "×",
    "100 MB s",
    "×",
    "import ms",
    "×",
  ],
];

function cellsOf(row, ratios) {
  const times = (ratio) => (ratio === undefined ? "" : String(ratio));
  const ms = (value) => (value === undefined ? "" : value.toFixed(2));
  return [
    row.name,
    row.version ?? "",
    row.durable ? "yes" : "no",
    Math.round(row.noop_per_s).toLocaleString("en-US"),
    times(ratios?.noop_per_s),
    ms(row.rtt_ms.p50),
    ms(row.rtt_ms.p95),
    ms(row.rtt_ms.p99),
    times(ratios?.rtt_p50),
    `${(row.sleep10_efficiency * 100).toFixed(1)} %`,
    times(ratios?.sleep10_efficiency),
    row.array_s === undefined ? "" : row.array_s.toFixed(2),
    times(ratios?.array_s),
    row.import_ms === undefined ? "" : String(Math.round(row.import_ms)),
    times(ratios?.import_ms),
  ];
}

/** A quarter of the cores in other hands is enough to spoil the numbers. */
const BUSY_SHARE = 0.25;

function busyNote({ busy_beside: share }) {
  if (!(share > BUSY_SHARE)) return "";
  return ` (${Math.round(share * 100)} % of the machine was in use by others around its run)`;
}

/** The rows' cells, and the sentences for the rows that have none. */
function layOut(report) {
  const measured = report.rows.filter((row) => !row.reason);
  return {
    cells: measured.map((row) => cellsOf(row, row.ratios)),
    missing: report.rows.filter((row) => row.reason).map((row) => `${row.name}: ${row.reason}`),
    notes: measured.map((row) => `${row.name}: ${row.note}${busyNote(row)}`),
  };
}

const LEGEND =
  "× is Farloom divided by the peer on the same measure: above 1 is better for Farloom in no-op/s and 10 ms work " +
  "(efficiency against ideal), below 1 is better for Farloom in p50, 100 MB (a numpy array there and back) and import. " +
  "Python peers are divided by the row of the Python package where there is one.";

function machineLine({ machine }) {
  const { cpus, cpu, memory_gib: memory, os, node, python } = machine;
  return `${cpus} CPUs (${cpu}), ${memory} GiB, ${os}, Node ${node}, ${python}; two workers each, one client, loopback`;
}

export function textTable(report) {
  const { cells, missing, notes } = layOut(report);
  const lines = [HEAD, ...cells];
  const widths = HEAD.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const draw = (line) =>
    line
      .map((cell, column) => (column < 3 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])))
      .join("  ")
      .trimEnd();
  const table = [draw(HEAD), widths.map((width) => "-".repeat(width)).join("  "), ...cells.map(draw)];
  return [machineLine(report), "", ...table, "", LEGEND, "", ...notes, ...missing].join("\n");
}

export function markdownTable(report) {
  const { cells, missing, notes } = layOut(report);
  const draw = (line) => `| ${line.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = `| ${HEAD.map((_, column) => (column < 3 ? "---" : "---:")).join(" | ")} |`;
  const bullets = [...notes, ...missing].map((line) => `- ${line}`);
  const machine = `${report.date}. ${machineLine(report)}.`;
  return [machine, "", draw(HEAD), rule, ...cells.map(draw), "", LEGEND, "", ...bullets].join("\n");
}
