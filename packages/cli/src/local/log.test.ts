import { expect, test } from "vitest";
import { problemIn, withoutRepeats } from "./log.js";

test("warnings and errors of a log are problems, with their reasons; the rest is not", () => {
  expect(problemIn('{"level":30,"msg":"ready"}')).toBeUndefined();
  expect(problemIn('{"level":40,"msg":"not connected","reason":"refused"}')).toEqual({
    level: "warning",
    text: "not connected: refused",
  });
  expect(problemIn('{"level":50,"msg":"lost","err":{"message":"disk full"}}')).toEqual({
    level: "error",
    text: "lost: disk full",
  });
});

test("what is no record of the log is a problem: a part that could not start wrote it", () => {
  expect(problemIn("Error: cannot listen")).toEqual({ level: "error", text: "Error: cannot listen" });
});

test("the same problem is told once", () => {
  const told: string[] = [];
  const tell = withoutRepeats(({ text }) => told.push(text));
  for (const text of ["a", "a", "b", "a"]) tell({ level: "warning", text });
  expect(told).toEqual(["a", "b"]);
});
