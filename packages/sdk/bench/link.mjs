/**
 * What a task costs the client: CPU for each submitted and returned task, round trip, and a megabyte each way.
 * The service is a fake in a process of its own, so the CPU measured is the client's alone.
 *
 *     npx tsc -b packages/sdk && node packages/sdk/bench/link.mjs
 */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Farloom } from "../dist/index.js";

if (process.argv[2] === "service") {
  const { FakeService, succeeded } = await import("../dist/testing/fake-service.js");
  const one = succeeded(Buffer.from("1"));
  const fake = await FakeService.start({
    run: (task) => (task.bytes.length < 41 && !(task.codec & 128) ? one : fake.echo(task)),
  });
  fake.frames.push = () => 0;
  fake.committed.set = () => fake.committed;
  fake.submissions.set = () => fake.submissions;
  setInterval(() => fake.outcomes.size > 500_000 && fake.outcomes.clear(), 1000);
  process.send(fake.url);
} else await client();

async function client() {
  const child = fork(fileURLToPath(import.meta.url), ["service"]);
  const url = await new Promise((resolve) => child.once("message", resolve));
  const farloom = new Farloom({ url, apiKey: "bench", endpoint: "00000000-0000-4000-8000-000000000000" });
  const fn = farloom.function("0".repeat(64));
  await fn.call([0]);

  const cpu = async (label, n, unit, run) => {
    const beforeCpu = process.cpuUsage();
    const startMs = performance.now();
    await run();
    const { user, system } = process.cpuUsage(beforeCpu);
    const wallUs = (performance.now() - startMs) * 1000;
    console.log(
      `${label.padEnd(46)} ${((user + system) / n).toFixed(2).padStart(8)} µs CPU  ${(wallUs / n).toFixed(2).padStart(8)} µs wall  a ${unit}`,
    );
  };

  const N = 100_000;
  const inputs = Array.from({ length: N }, (_, i) => [i]);
  for (let round = 0; round < 3; round++) {
    await cpu("map of 100,000, all()", N, "task", () => fn.map(inputs).all());
    await cpu("map of 100,000, asCompleted()", N, "task", async () => {
      for await (const _ of fn.map(inputs).asCompleted());
    });
    await cpu("submit 100,000 in turns of 1,000, result() each", N, "task", async () => {
      for (let i = 0; i < N; i += 1000) {
        await Promise.all(Array.from({ length: 1000 }, (_, j) => fn.submit([i + j]).result()));
      }
    });
    await cpu("submit() alone, synchronous part, 100,000", N, "task", async () => {
      for (let i = 0; i < N; i++) fn.submit([i]);
    });
    await cpu("  … and its sending and settling", N, "task", () => fn.call([1]));
  }
  const laps = [];
  for (let i = 0; i < 3000; i++) {
    const startMs = performance.now();
    await fn.call([i]);
    laps.push((performance.now() - startMs) * 1000);
  }
  laps.sort((a, b) => a - b);
  console.log(`round trip, one at a time: p50 ${laps[1500].toFixed(0)} µs, p99 ${laps[2970].toFixed(0)} µs`);
  await cpu("round trip, one at a time", 2000, "call", async () => {
    for (let i = 0; i < 2000; i++) await fn.call([i]);
  });
  const megabyte = "x".repeat(1024 * 1024 - 2);
  for (let round = 0; round < 2; round++) {
    await cpu("1 MiB argument up, 1 MiB result down", 100, "call", async () => {
      for (let i = 0; i < 100; i++) await fn.call([`${i}${megabyte}`.slice(0, megabyte.length)]);
    });
  }
  await farloom.close();
  child.kill();
}
