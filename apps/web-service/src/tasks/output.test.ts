import { expect, it } from "vitest";
import { behind, joined } from "./output.js";

const row = (at: number, text: string) => ({ at, data: Buffer.from(text) });
const shown = (part: { at: number; data: Buffer } | undefined) => part && [part.at, part.data.toString()];

it.each([
  ["rows one behind the other", [row(0, "abc"), row(3, "de")], 0, [0, "abcde"]],
  ["from the middle of a row", [row(0, "abc"), row(3, "de")], 2, [2, "cde"]],
  ["to the first gap", [row(0, "abc"), row(9, "de")], 1, [1, "bc"]],
  ["from behind a gap", [row(9, "de")], 4, [9, "de"]],
  ["nothing", [], 4, [4, ""]],
])("%s are joined", (_what, rows, offset, part) => expect(shown(joined(rows, offset))).toEqual(part));

it.each([
  ["all of it", 0, [10, "tail"]],
  ["from within", 12, [12, "il"]],
  ["nothing behind its end", 14, undefined],
])("of an outcome's tail there is %s", (_what, offset, part) =>
  expect(shown(behind(row(10, "tail"), offset))).toEqual(part),
);
