import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CommandSpec } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { command, NodeHarness, node, python } from "../../../../test/support/node-harness.js";

vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

let h: NodeHarness;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "fl-r-"));
  h = await new NodeHarness({ workers: 1 }).start();
});

afterAll(async () => {
  await h[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

const run = (spec: CommandSpec, args: unknown[] = [], kwargs: Record<string, unknown> = {}) =>
  h.call(command(spec), args, { kwargs });

describe("runtime command", () => {
  it("fills arguments into argv and standard input, never through a shell", async () => {
    const end = await run(
      { argv: ["printf", "%s|", "{0}", "{name}", "{{x}}", "pre-{n}-post"] },
      ["$(id); *"],
      { name: "a b", n: 3 },
    );
    expect(end.value).toEqual({ exitCode: 0, stdout: "$(id); *|a b|{x}|pre-3-post|", stderr: "", files: {} });
    expect(
      (await run({ argv: ["tr", "a-z", "A-Z"], stdin: "{text}\n" }, [], { text: "hello" })).value,
    ).toMatchObject({ stdout: "HELLO\n" });
  });

  it("brings named output files back, text as text and bytes as base64", async () => {
    const end = await run({
      argv: ["sh", "-c", "mkdir out; printf hi > out/a.txt; printf '\\377\\376' > b.bin"],
      outputs: ["out/a.txt", "b.bin"],
    });
    expect((end.value as { files: unknown }).files).toEqual({
      "out/a.txt": "hi",
      "b.bin": { base64: "//4=" },
    });
  });

  it.each([
    ["a symbolic link", "ln -s /etc/passwd x", "x", "result_invalid"],
    ["a linked folder", "ln -s /etc d", "d/passwd", "result_invalid"],
    ["a path upwards", "true", "../stdout", "function_invalid"],
    ["an absolute path", "true", "/etc/passwd", "function_invalid"],
    ["a pipe", "mkfifo p", "p", "result_invalid"],
    ["a file that is not there", "true", "nothing", "result_invalid"],
  ])("refuses an output that is %s", async (_what, script, output, reason) => {
    const end = await run({ argv: ["sh", "-c", script], outputs: [output] });
    expect([end.state, end.reason]).toEqual(["FAILED", reason]);
  });

  it("names exit code, signal and the last line of standard error", async () => {
    const failed = await run({ argv: ["sh", "-c", "echo broken >&2; exit 4"] });
    expect([failed.state, failed.reason, failed.detail.exitCode]).toEqual(["FAILED", "nonzero_exit", 4]);
    expect(failed.detail.error!.message).toContain("broken");
    expect(failed.detail.stderr).toBe("broken\n");
    expect((await run({ argv: ["sh", "-c", "kill -9 $$"] })).detail).toMatchObject({
      signal: "SIGKILL",
      exitCode: 137,
    });
    expect((await run({ argv: ["sh", "-c", "exit 4"], okExitCodes: [0, 4] })).value).toMatchObject({
      exitCode: 4,
    });
  });

  it("names a program that is missing, and an argument that was not given", async () => {
    expect((await run({ argv: ["no-such-program-x"] })).reason).toBe("environment");
    expect((await run({ argv: ["echo", "{9}"] })).reason).toBe("arguments_invalid");
  });

  it("is ended at its time limit, and its CPU time is counted", async () => {
    const slow = await h.call(command({ argv: ["sleep", "30"] }, { timeoutMs: 300 }));
    expect(slow.state).toBe("TIMED_OUT");
    const busy = await run({ argv: ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"] });
    expect(busy.cpuUs).toBeGreaterThan(busy.runUs / 4);
  });
});

describe("runtime node", () => {
  it("runs an ES module, its types stripped", async () => {
    const fn = node(
      "interface P { a: number }\nexport function main(a: number, p: P): number { return a + p.a }",
    );
    expect((await h.call(fn, [1, { a: 2 }])).value).toBe(3);
    expect(
      (await h.call(fn, [1], { kwargs: { a: 5 } })).value,
      "named arguments come last, as one object",
    ).toBe(6);
    expect((await h.call(node("export const main = async () => { await null; }"))).value).toBe(null);
    expect(
      (await h.call(node("export default function () { return 'd' }", { entry: "default" }))).value,
    ).toBe("d");
  });

  it.each([
    ["an enum", "enum A { B }\nexport function main() {}", "function_invalid", /enum.*const object/s],
    ["a syntax error", "export function main( {", "function_invalid", /does not parse \(line 1\)/],
    ["no such export", "export function other() {}", "function_invalid", /it exports: other/],
    [
      "a missing package",
      "import x from 'no-such-package-x';\nexport function main() {}",
      "environment",
      /cwd/,
    ],
    ["a throw", "export function main() { throw new TypeError('bad') }", "user_error", /^bad$/],
    ["process.exit", "export function main() { process.exit(3) }", "user_error", /process\.exit\(3\)/],
    [
      "an unhandled rejection",
      "export async function main() { Promise.reject(new Error('lost')); await new Promise((r) => setTimeout(r, 2000)) }",
      "user_error",
      /unhandled rejection: lost/,
    ],
    [
      "a throw in a callback",
      "export async function main() { setTimeout(() => { throw new Error('late') }, 1); await new Promise((r) => setTimeout(r, 2000)) }",
      "user_error",
      /uncaught exception: late/,
    ],
    ["a BigInt", "export function main() { return 10n }", "result_invalid", /BigInt/],
    ["NaN", "export function main() { return { a: [0 / 0] } }", "result_invalid", /NaN/],
    ["bytes", "export function main() { return Buffer.from('x') }", "result_invalid", /base64/],
    ["a cycle", "export function main() { const a = {}; a.a = a; return a }", "result_invalid", /circular/i],
  ])("names %s, and the worker stays", async (_what, code, reason, message) => {
    const end = await h.call(node(code));
    expect([end.state, end.reason]).toEqual(["FAILED", reason]);
    expect(end.detail.error!.message).toMatch(message);
    expect((await h.call(node("export function main() { return process.pid }"))).state).toBe("SUCCEEDED");
  });

  it("shows the function's own lines in the stack", async () => {
    const end = await h.call(
      node("type T = string;\n\nexport function main(x: T) {\n  throw new Error(x);\n}"),
      ["here"],
    );
    expect(end.detail.error!.traceback).toMatch(/farloom_[0-9a-f]{12}\.mjs:4:9/);
    expect(end.detail.error!.traceback).not.toContain("/workers/node/");
  });

  it("resolves bare imports from the call's working directory", async () => {
    const pkg = join(dir, "node_modules", "tiny");
    mkdirSync(pkg, { recursive: true });
    writeFileSync(
      join(pkg, "package.json"),
      JSON.stringify({ name: "tiny", type: "module", exports: "./i.js" }),
    );
    writeFileSync(join(pkg, "i.js"), "export const x = 'from tiny';");
    const fn = node(
      "import { x } from 'tiny';\nexport function main() { return [x, process.cwd(), process.env.K] }",
    );
    const end = await h.call(fn, [], { options: { cwd: dir, env: { K: "v" } } });
    expect(end.value).toEqual(["from tiny", dir, "v"]);
    expect((await h.call(node("export function main() { return process.env.K ?? null }"))).value).toBe(null);
  });

  it("captures output, and says who died how", async () => {
    const talk = await h.call(
      node(
        "import { execSync } from 'node:child_process';\nexport function main() { console.log('log'); console.error('err'); execSync('echo child >&2', { stdio: 'inherit' }) }",
      ),
    );
    expect(talk.detail).toMatchObject({ stdout: "log\n", stderr: "err\nchild\n" });
    const dead = await h.call(node("export function main() { process.kill(process.pid, 'SIGKILL') }"));
    expect([dead.state, dead.reason, dead.detail.signal]).toEqual(["FAILED", "worker_died", "SIGKILL"]);
    const endless = await h.call(node("export function main() { for (;;); }", { timeoutMs: 300 }));
    expect([endless.state, endless.reason]).toEqual(["TIMED_OUT", "run_time_limit"]);
  });

  it("carries MessagePack both ways", async () => {
    const end = await h.call(node("export function main(a) { return a }"), [[1, "ü", null]], {
      codec: "msgpack",
    });
    expect(end.bytes).toEqual(Buffer.from([0x93, 1, 0xa2, 0xc3, 0xbc, 0xc0]));
  });
});

it("lanes share the places: with one place, Python, Node and commands all get their turn", async () => {
  const py = python("def f(i):\n    return i\n");
  const js = node("export function main(i) { return i }");
  const calls = Array.from({ length: 300 }, (_, i) => ({ fn: i % 2 ? py : js, args: [i] }));
  const ends = await h.ends(h.send(...calls, { fn: command({ argv: ["true"] }) }));
  expect(ends.every((end) => end.state === "SUCCEEDED")).toBe(true);
});
