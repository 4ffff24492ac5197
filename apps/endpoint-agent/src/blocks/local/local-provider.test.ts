import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Frame } from "@farloom/protocol";
import { pino } from "pino";
import { expect, it } from "vitest";
import { PYTHON } from "../../../../../test/support/node-harness.js";
import { LocalProvider } from "./local-provider.js";

it("a local block is one node that says hello; it ends when it is cancelled, and what is unknown stays unknown", async () => {
  const stateDir = mkdtempSync(join(tmpdir(), "fl-b-"));
  const frames: Frame[] = [];
  const provider = new LocalProvider({
    node: { log: pino({ level: "silent" }), stateDir, runtimes: { python: { default: PYTHON } } },
    onNode: (_id, port) => port.onFrame((frame) => frames.push(frame)),
  });
  const request = { nodes: 1, workersPerNode: 1, command: [], parametersFile: "" };
  try {
    const id = await provider.submit(request);
    await expect.poll(() => frames.map((frame) => frame.t)).toEqual(["hello", "credit"]);
    expect(await provider.status([id, "other"])).toEqual([
      { id, state: "running" },
      { id: "other", state: "unknown" },
    ]);
    await expect(provider.submit(request)).rejects.toThrow("running already");
    await expect(provider.submit({ ...request, nodes: 2 })).rejects.toThrow("one node");
    await provider.cancel([id, id]);
    expect((await provider.status([id]))[0]).toMatchObject({ state: "ended" });
  } finally {
    rmSync(stateDir, { recursive: true, force: true });
  }
});
