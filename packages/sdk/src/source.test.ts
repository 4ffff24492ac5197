import { describe, expect, test } from "vitest";
import { entryIn, functionSpec } from "./source.js";

describe("what is registered", () => {
  test("the only function of a Python text is its entry", () => {
    expect(
      entryIn(
        "import os\n\ndef _help():\n    pass\n\ndef f(x):\n    def inner(): pass\n    return x\n",
        "python",
        [],
      ),
    ).toBe("f");
  });

  test("of several, the named one, or main; otherwise the candidates are told", () => {
    const code = "def a(): pass\nasync def main(): pass\ndef b(): pass\n";
    expect(entryIn(code, "python", ["b", "main"])).toBe("b");
    expect(entryIn(code, "python", [undefined, "main"])).toBe("main");
    expect(() => entryIn("def a(): pass\ndef b(): pass", "python", ["main"])).toThrow("a, b");
  });

  test("a module's exports are its candidates", () => {
    const code = "const x = 1;\nfunction hidden() {}\nexport async function run(a) {}\n";
    expect(entryIn(code, "node", [])).toBe("run");
    expect(entryIn("export const go = (a) => a;", "node", [])).toBe("go");
    expect(() => entryIn("function f() {}", "node", [])).toThrow("exports no function");
  });

  const object = {
    method(a: number) {
      return a + 1;
    },
    async later(a: number) {
      return a + 2;
    },
  };
  test.each([
    ["an arrow", (a: number) => a + 1, 2],
    [
      "a function",
      function plus(a: number) {
        return a + 1;
      },
      2,
    ],
    ["a method", object.method, 2],
    ["an async method", object.later, 3],
  ])("%s becomes a module that exports it", async (_, fn, expected) => {
    const spec = await functionSpec({ name: "f", fn });
    expect(spec).toMatchObject({ runtime: "node", entry: "call" });
    const module = (await import(`data:text/javascript,${encodeURIComponent(spec.code!)}`)) as {
      call: (a: number) => number;
    };
    expect(await module.call(1)).toBe(expected);
  });

  test("a function without a text of its own is refused", async () => {
    await expect(functionSpec({ name: "f", fn: Math.max })).rejects.toThrow("wrap it");
  });

  test("isolation and network are part of its environment, beside what that has", async () => {
    const code = "def f(): pass\n";
    const env = { vars: { A: "1" } };
    const spec = await functionSpec({ runtime: "python", code, env, isolation: "namespaces", network: true });
    expect(spec).toMatchObject({
      name: "f",
      env: { vars: { A: "1" }, isolation: "namespaces", network: true },
    });
    expect(spec).not.toHaveProperty("isolation");
    expect(await functionSpec({ runtime: "python", code })).not.toHaveProperty("env");
  });

  test("a command needs no code, and is named after its program", async () => {
    const spec = await functionSpec({ command: { argv: ["/usr/bin/wc", "-l"] } });
    expect(spec).toEqual({ name: "wc", runtime: "command", command: { argv: ["/usr/bin/wc", "-l"] } });
  });
});
