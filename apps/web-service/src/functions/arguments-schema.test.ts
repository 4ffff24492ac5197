import { describe, expect, it } from "vitest";
import { checkArguments, checkArgumentsSchema } from "./arguments-schema.js";
import type { FunctionRecord } from "./registry.js";

const fn = (argsSchema: unknown) => ({ ref: "me/f@1", argsSchema }) as FunctionRecord;
const integers = { type: "array", items: { type: "integer" } };
const named = {
  type: "object",
  properties: { pattern: { type: "string" }, $ref: { type: "string" } },
  additionalProperties: false,
};

describe("a schema of arguments", () => {
  it("is taken with properties that are called like keywords, local references and a draft of its own", () => {
    expect(checkArgumentsSchema(named)).toBeUndefined();
    expect(
      checkArgumentsSchema({ ...integers, $schema: "http://json-schema.org/draft-07/schema#" }),
    ).toBeUndefined();
    expect(
      checkArgumentsSchema({ type: "array", items: { $ref: "#/$defs/n" }, $defs: { n: { type: "number" } } }),
    ).toBeUndefined();
  });

  it.each([
    ["text", "x"],
    ["a list", []],
    ["a number for type", { type: "number" }],
    [
      "uniqueItems deep inside",
      { type: "object", properties: { a: { anyOf: [{ items: { uniqueItems: true } }] } } },
    ],
    ["a pattern behind not", { type: "array", items: { not: { pattern: "a" } } }],
    [
      "a pattern behind a reference",
      { type: "array", items: { $ref: "#/$defs/p" }, $defs: { p: { pattern: "a" } } },
    ],
    ["$async", { type: "array", $async: true }],
    ["a reference to elsewhere", { type: "array", items: { $ref: "https://example.com/s.json" } }],
    ["a reference to the whole", { type: "array", items: { $ref: "#" } }],
    ["a reference to nothing", { type: "array", items: { $ref: "#/$defs/none" } }],
    ["a type that is none", { type: "array", items: { type: "integr" } }],
  ])("is refused: %s", (_what, schema) => {
    expect(checkArgumentsSchema(schema)).toEqual(expect.any(String));
  });
});

describe("arguments", () => {
  it("pass where they fit, and where there is no schema", () => {
    expect(() => checkArguments(fn(integers), [1, 2], {})).not.toThrow();
    expect(() => checkArguments(fn(named), [], { pattern: "x" })).not.toThrow();
    expect(() => checkArguments(fn(undefined), ["anything"], { at: "all" })).not.toThrow();
  });

  it("are refused with the place and the reason", () => {
    expect(() => checkArguments(fn(integers), [1, "2"], {})).toThrow(/args\/1 must be integer/);
    expect(() => checkArguments(fn(named), [], { colour: "x" })).toThrow(/additional properties \(colour\)/);
  });

  it("are refused where they come in the other form, which the schema says nothing of", () => {
    expect(() => checkArguments(fn(integers), [1], { k: 1 })).toThrow(/takes positional arguments/);
    expect(() => checkArguments(fn(named), [1], {})).toThrow(/takes named arguments/);
  });
});
