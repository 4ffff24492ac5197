/** A service of an earlier version does not say whose a task is: then no boxed worker meets tasks of two people. */
import { spawnSync } from "node:child_process";
import { CAPABILITIES } from "@farloom/protocol";
import { expect, it } from "vitest";
import { enrolledStateDir, startEchoAgent } from "../support/agent.js";
import { FakeService } from "../support/fake-service.js";

const isThere = spawnSync("bwrap", ["--version"]).error === undefined;
const BOB = "0190b6f0-0000-7000-8000-000000000002";

const submittersAt = async (caps: readonly string[] | undefined, level: string) => {
  const service = await FakeService.start();
  service.caps = caps;
  const dir = await enrolledStateDir(service);
  try {
    const { agent, node } = await startEchoAgent(dir.stateDir, { answers: false }, { isolation: level });
    try {
      await service.until(() => service.connected && service.roomTasks > 0, "connected, with credit");
      service.sendTasks([{}, {}, { options: { submitter: BOB, timeoutMs: 5_000 } }]);
      await service.until(() => node.given.length === 3, "the node has the tasks");
      const frames = node.frames.filter((frame) => frame.t === "tasks");
      return frames.flatMap((frame) => Array.from({ length: frame.n }, (_, i) => frame.opts?.[i]));
    } finally {
      await agent.close();
    }
  } finally {
    dir.remove();
    await service.close();
  }
};

it.skipIf(!isThere)(
  "each task of a service that tells no submitters is somebody's of its own (skipped: needs bwrap)",
  async () => {
    const older = CAPABILITIES.filter((cap) => cap !== "submitter");
    const told = await submittersAt(older, "namespaces");
    expect(told).toHaveLength(3);
    const submitters = told.map((options) => options?.submitter);
    expect(new Set(submitters).size).toBe(3);
    for (const submitter of submitters) expect(submitter).toMatch(/^[0-9a-f]{32}$/);
    expect(told[2]?.timeoutMs).toBe(5_000);
    expect((await submittersAt(older, "none")).map((options) => options?.submitter)).toEqual([
      undefined,
      undefined,
      BOB,
    ]);
    const current = await submittersAt(undefined, "namespaces");
    expect(current.map((options) => options?.submitter)).toEqual([undefined, undefined, BOB]);
  },
  60_000,
);
