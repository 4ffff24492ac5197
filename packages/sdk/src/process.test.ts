/** What a program's end depends on, in programs of their own. */
import { spawn } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FakeService } from "./testing/fake-service.js";

let fake: FakeService;
beforeEach(async () => {
  fake = await FakeService.start();
});
afterEach(() => fake.close());

const SDK = new URL("../dist/index.js", import.meta.url).href;

function program(body: string): Promise<{ code: number | null; stdout: string }> {
  const code = `import { Farloom } from ${JSON.stringify(SDK)};
    const farloom = new Farloom({ url: ${JSON.stringify(fake.url)}, apiKey: "k", endpoint: "laptop" });
    const fn = farloom.function("f");
    ${body}`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let stdout = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  return new Promise((resolve) =>
    child.once("close", (exit) => {
      clearTimeout(timer);
      resolve({ code: exit, stdout });
    }),
  );
}

test("a client that was not closed does not keep the process alive once nothing is awaited", async () => {
  expect(await program("console.log(await fn.call([7]));")).toEqual({ code: 0, stdout: "7\n" });
}, 20_000);

test("an awaited result keeps the process alive, over a cut link too", async () => {
  fake.options.run = () => undefined;
  const ended = program("console.log(await fn.call([7]));");
  while (fake.committed.size === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await new Promise((resolve) => setTimeout(resolve, 100));
  fake.cut();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const key = [...fake.committed.keys()][0]!;
  fake.finish(key, fake.echo(fake.committed.get(key)!));
  expect(await ended).toEqual({ code: 0, stdout: "7\n" });
}, 20_000);

test("what was submitted and is not awaited is durable before the process ends", async () => {
  fake.options.run = () => undefined;
  const { code } = await program("for (let i = 0; i < 5000; i++) fn.submit([i]);");
  expect(code).toBe(0);
  expect(fake.committed.size).toBe(5000);
}, 20_000);
