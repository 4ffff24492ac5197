/** Seals and fences through the agent: what came is what goes on, over batches, restarts and newer leases. */
import { existsSync } from "node:fs";
import {
  columnToKeys,
  fenceFor,
  fenceOf,
  type IdKey,
  SEAL_BYTES,
  sealHolds,
  TERMINAL_STATES,
  u32Of,
  writeSeal,
} from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { enrolledStateDir, startEchoAgent } from "../../../test/support/agent.js";
import type { EchoNodeOptions } from "../../../test/support/echo-node.js";
import { FakeService } from "../../../test/support/fake-service.js";

let service: FakeService;
let stateDir: string;
let cleanup: (() => void | Promise<void>)[];

beforeEach(async () => {
  service = await FakeService.start();
  const dir = await enrolledStateDir(service);
  stateDir = dir.stateDir;
  cleanup = [dir.remove, () => service.close()];
});
afterEach(async () => {
  for (const step of cleanup.reverse()) await step();
});

async function start(node: EchoNodeOptions = {}) {
  const started = await startEchoAgent(stateDir, node);
  cleanup.push(() => started.agent.close());
  await service.until(() => service.connected && service.roomTasks > 0, "connected, with credit");
  return started;
}

const seal = (key: IdKey, bytes: Buffer): Buffer => {
  const out = Buffer.alloc(SEAL_BYTES);
  writeSeal(out, 0, key, bytes);
  return out;
};
const args = Buffer.from("[[42],{}]");
/** A task with its seal, of this lease. */
const sealed = (fence: number, more: object = {}) => {
  const key = service.ids.next();
  return { key, args, fence, seals: seal(key, args), ...more };
};
const durable = (n: number) =>
  service.until(() => service.frames.some((f) => f.t === "mark" && f.durable >= n), `${n} accepted`);

describe("on the way down", () => {
  it.each([1, 3, 40])("every task of a batch of %i keeps its seal and its fence", async (n) => {
    const { node } = await start({ answers: false });
    const tasks = Array.from({ length: n }, (_, i) =>
      sealed(fenceFor(3, 1 + (i % 2)), { attempt: 1 + (i % 2) }),
    );
    service.sendTasks(tasks);
    await service.until(() => node.given.length === n);
    const frames = node.frames.filter((f) => f.t === "tasks");
    const seen = frames.flatMap((f) =>
      columnToKeys(f.ids).map((key, i) => ({
        key,
        fence: fenceOf(f.fences, i),
        holds: sealHolds(f.seals, SEAL_BYTES * i, key, args),
        has: f.seals!.subarray(SEAL_BYTES * i, SEAL_BYTES * (i + 1)).equals(seal(key, args)),
      })),
    );
    expect(seen).toEqual(tasks.map(({ key, fence }) => ({ key, fence, holds: true, has: true })));
  });

  it("a service of before seals and fences is served as before", async () => {
    const { node } = await start({ answers: false });
    service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    const [frame] = node.frames.filter((f) => f.t === "tasks");
    expect([frame!.fences, frame!.seals]).toEqual([undefined, undefined]);
    node.finish(node.given);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({ state: TERMINAL_STATES.SUCCEEDED, fence: 0 });
  });
});

describe("on the way up", () => {
  it("a result bears the fence and the seal that its worker gave it", async () => {
    const { node } = await start({ answers: false });
    const task = sealed(fenceFor(3, 1));
    service.sendTasks([task]);
    await service.until(() => node.given.length === 1);
    const made = seal(task.key, Buffer.from("7"));
    node.finish(node.given, { fence: task.fence, seals: made, sealAt: 0 });
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({ key: task.key, fence: task.fence });
    expect(service.results[0]!.seal).toEqual(made);
  });

  it("a result bears the newest lease of its attempt, under whichever it was run", async () => {
    const { node } = await start({ answers: false });
    const task = sealed(fenceFor(3, 1));
    service.sendTasks([task]);
    await service.until(() => node.given.length === 1);
    service.sendTasks([{ ...task, fence: fenceFor(4, 1) }]);
    await durable(2);
    const made = seal(task.key, Buffer.from("7"));
    node.finish(node.given, { fence: task.fence, seals: made, sealAt: 0 });
    await service.until(() => service.results.length === 1);
    expect([service.results[0]!.fence, service.results[0]!.seal]).toEqual([fenceFor(4, 1), made]);
  });

  it("what the agent itself says of a task bears its fence, and no seal", async () => {
    const { node } = await start({ answers: false, creditTasks: 1 });
    const [first, second] = [sealed(fenceFor(3, 1)), sealed(fenceFor(3, 1))];
    service.sendTasks([first, second]);
    await service.until(() => node.given.length === 1);
    service.send({ t: "cancel", ids: Buffer.from(second.key, "latin1") });
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({ key: second.key, state: TERMINAL_STATES.CANCELLED });
    expect([service.results[0]!.fence, service.results[0]!.seal]).toEqual([fenceFor(3, 1), undefined]);
  });
});

describe("over a restart", () => {
  it("hello says under which attempt and fence each task is held, and the next agent passes both on (P15b)", async () => {
    const { agent } = await start({ answers: false, creditTasks: 1 });
    const tasks = [
      sealed(fenceFor(3, 1)),
      sealed(fenceFor(3, 2), { attempt: 2 }),
      sealed(fenceFor(3, 5), { attempt: 5 }),
    ];
    service.sendTasks(tasks);
    await durable(3);
    expect(service.hellos[0]).toMatchObject({ heldAttempts: Buffer.alloc(0), heldFences: Buffer.alloc(0) });
    await agent.close();
    expect(existsSync(stateDir)).toBe(true);
    const { node } = await start({ answers: false, held: [tasks[0]!.key], whole: true });
    const { held, heldAttempts, heldFences } = service.hellos[1]!;
    const said = columnToKeys(held!).map((key, i) => [key, u32Of(heldAttempts, i), fenceOf(heldFences, i)]);
    expect(said).toEqual(tasks.map(({ key, fence }, i) => [key, [1, 2, 5][i], fence]));
    await service.until(() => node.given.length === 2);
    const frame = node.frames.find((f) => f.t === "tasks")!;
    expect([fenceOf(frame.fences, 0), fenceOf(frame.fences, 1)]).toEqual([fenceFor(3, 2), fenceFor(3, 5)]);
    expect(frame.seals).toEqual(Buffer.concat(tasks.slice(1).map(({ seals }) => seals)));
  });

  it("results that were not acknowledged keep fence and seal", async () => {
    service.acknowledges = false;
    const { agent, node } = await start({ answers: false });
    const task = sealed(fenceFor(3, 1));
    service.sendTasks([task]);
    await service.until(() => node.given.length === 1);
    const made = seal(task.key, Buffer.from("7"));
    node.finish(node.given, { fence: task.fence, seals: made, sealAt: 0 });
    await service.until(() => service.results.length === 1);
    await agent.close();
    service.acknowledges = true;
    await start();
    await service.until(() => service.results.length === 2);
    expect([service.results[1]!.fence, service.results[1]!.seal]).toEqual([task.fence, made]);
  });
});
