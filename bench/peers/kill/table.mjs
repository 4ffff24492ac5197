/** The kill tests as text, as Markdown, and as the section that docs/guarantees.md holds. */

const COLUMNS = ["system", "killed", "acknowledged", "result", "told failed", "lost", "run twice or more"];
const BEGIN = "<!-- kills:begin, made by npm run bench:kills -->";
const END = "<!-- kills:end -->";

/** The cells of one row; a run that failed says why instead of numbers. */
function cellsOf(row) {
  const { name, killed, reason } = row;
  if (reason) return [name, killed, `not run: ${reason.replaceAll("|", "/")}`, "", "", "", ""];
  return [name, killed, row.acknowledged, row.results, row.failed, row.lost, row.twice].map(String);
}

function machineLine({ date, machine, versions }) {
  const named = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return `${date}. ${machine}. ${named.join(", ")}.`;
}

export function textTable(report) {
  const lines = [COLUMNS, ...report.rows.map(cellsOf)];
  const widths = COLUMNS.map((_, i) => Math.max(...lines.map((cells) => cells[i].length)));
  const text = lines.map((cells) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]))
      .join("  ")
      .trimEnd(),
  );
  return [machineLine(report), "", ...text].join("\n");
}

export function markdownTable(report) {
  const rows = report.rows.map(cellsOf);
  const widths = COLUMNS.map((name, i) => Math.max(name.length, ...rows.map((cells) => cells[i].length), 4));
  const line = (cells) =>
    `| ${cells.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(" | ")} |`;
  const rule = `| ${widths.map((width, i) => (i < 2 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |`;
  return [machineLine(report), "", line(COLUMNS), rule, ...rows.map(line)].join("\n");
}

/** The page with its section replaced, or added at the end where it has none. */
export function withSection(page, table) {
  const section = `${BEGIN}\n\n${table}\n\n${END}`;
  const begin = page.search(/<!-- kills:begin\b/);
  const end = page.indexOf(END);
  if (begin < 0 || end < begin) return `${page.trimEnd()}${page.trim() === "" ? "" : "\n\n"}${section}\n`;
  return page.slice(0, begin) + section + page.slice(end + END.length);
}
