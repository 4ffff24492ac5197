/** SECURITY.md says of each adversary which tests play them: those are there, and none is left out. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const TEST = join(import.meta.dirname, "..");
const text = readFileSync(join(TEST, "../SECURITY.md"), "utf8");
const model = text.slice(text.indexOf("## Threat model"), text.indexOf("## How it is kept"));

/** Of each row its adversary, and the files named in its last cell: `folder/name`, or `folder/`: `name`, `name`; …. */
const rows = model
  .split("\n")
  .filter((line) => line.startsWith("| ["))
  .map((line) => {
    const cells = line.split("|").map((cell) => cell.trim());
    const tests = cells
      .at(-2)!
      .split(";")
      .flatMap((part) => {
        const named = [...part.matchAll(/`([^`]+)`/g)].map((match) => match[1]!);
        const folder = named[0]?.endsWith("/") ? named.shift()! : "";
        return named.map((name) => folder + name);
      });
    return { anchor: /\(#([^)]+)\)/.exec(cells[1]!)![1]!, tests };
  });

it("names nine adversaries, each with a section, and tests that there are", () => {
  expect(rows).toHaveLength(9);
  const sections = [...model.matchAll(/^### (.+)$/gm)].map((match) =>
    match[1]!.toLowerCase().replaceAll(" ", "-"),
  );
  expect(rows.map(({ anchor }) => anchor)).toEqual(sections);
  const files = new Set(
    ["security", "integration"].flatMap((folder) =>
      readdirSync(join(TEST, folder)).map((file) => `${folder}/${file.replace(".test.ts", "")}`),
    ),
  );
  expect(rows.filter(({ tests }) => tests.length === 0)).toEqual([]);
  expect(rows.flatMap(({ tests }) => tests).filter((name) => !files.has(name))).toEqual([]);
});

it("tells of every suite that plays somebody", () => {
  const suites = readdirSync(join(TEST, "security")).filter((file) => file.endsWith(".test.ts"));
  const untold = suites
    .map((file) => file.replace(".test.ts", ""))
    .filter((name) => name !== "threat-model" && !text.includes(name));
  expect(untold).toEqual([]);
});
