/** The table of SECURITY.md that says what becomes of each attempt at each level: read, compared, and written. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const PAGE = join(import.meta.dirname, "../../SECURITY.md");
const BEGIN = "<!-- escapes:begin (written by npm run security:table) -->";
const END = "<!-- escapes:end -->";

/** From the worst to the best. */
export const VERDICTS = ["allowed", "contained", "stopped"] as const;
export type Verdict = (typeof VERDICTS)[number];

/** Attempt, then level, then verdict. */
export type Table = Map<string, Map<string, Verdict>>;

export function readTable(): Table {
  const page = readFileSync(PAGE, "utf8");
  const block = page.slice(page.indexOf(BEGIN), page.indexOf(END));
  const rows = block
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const [head = [], , ...body] = rows;
  return new Map(
    body.map(([name = "", ...cells]) => [
      name,
      new Map(
        cells.map((cell, i) => [head[i + 1]!.replaceAll("`", ""), cell.replaceAll("*", "") as Verdict]),
      ),
    ]),
  );
}

export function writeTable(table: Table, levels: readonly string[]): void {
  const rows = [
    ["what a task tries", ...levels.map((level) => `\`${level}\``)],
    ...[...table].map(([name, verdicts]) => [name, ...levels.map((level) => shown(verdicts.get(level)))]),
  ];
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) => `| ${cells.map((c, i) => c.padEnd(widths[i]!)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  const text = [BEGIN, "", line(rows[0]!), rule, ...rows.slice(1).map(line), "", END].join("\n");
  const page = readFileSync(PAGE, "utf8");
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error("SECURITY.md has no place for the table");
  writeFileSync(PAGE, page.slice(0, from) + text + page.slice(to + END.length));
}

/** What is allowed catches the eye. */
function shown(verdict: Verdict | undefined): string {
  return verdict === undefined ? "–" : verdict === "allowed" ? "**allowed**" : verdict;
}
