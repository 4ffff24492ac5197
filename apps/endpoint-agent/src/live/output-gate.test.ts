import {
  buildOutput,
  type IdKey,
  limits,
  type OutputFrame,
  piecesOf,
  TaskIdAllocator,
} from "@farloom/protocol";
import { expect, it } from "vitest";
import { OutputGate } from "./output-gate.js";

const ids = new TaskIdAllocator();
const [own, foreign] = [ids.next(), ids.next()];
const piece = (key: IdKey, bytes: number) => ({
  key,
  attempt: 1,
  stream: 1,
  at: 0,
  data: Buffer.alloc(bytes, 97),
});

it("a node speaks of the tasks that it was handed alone, and the agent says in which attempt", () => {
  const sent: OutputFrame[] = [];
  const gate = new OutputGate({
    attemptOn: (node, key) => (node === "n" && key === own ? 3 : undefined),
    send: (frame) => sent.push(frame) > 0,
  });
  gate.opened(true);
  gate.take(buildOutput([piece(foreign, 5), piece(own, 7)]), "n");
  gate.take(buildOutput([piece(own, 7)]), "another");
  expect(sent.flatMap(piecesOf).map(({ key, attempt, data }) => [key, attempt, data.length])).toEqual([
    [own, 3, 7],
  ]);
});

it("no more goes up than a second's worth in a second", () => {
  let now = 0;
  let bytes = 0;
  const gate = new OutputGate({
    attemptOn: () => 1,
    send: (frame) => {
      bytes += frame.data.length;
      return true;
    },
    now: () => now,
  });
  gate.opened(true);
  for (; now < 3_000; now += 10) gate.take(buildOutput([piece(own, 60_000)]), "n");
  expect(bytes).toBeLessThanOrEqual(4 * limits.OUTPUT_BYTES_PER_S);
  expect(bytes).toBeGreaterThan(3 * limits.OUTPUT_BYTES_PER_S);
});

it("what comes while there is no session waits for it, in order and within its bound", () => {
  const sent: OutputFrame[] = [];
  let now = 0;
  const gate = new OutputGate({ attemptOn: () => 1, send: (frame) => sent.push(frame) > 0, now: () => now });
  const at = (position: number) => ({ ...piece(own, 65_536), at: position });
  for (let i = 0; i < 100; i++, now += 1_000) gate.take(buildOutput([at(i)]), "n");
  expect(sent).toEqual([]);
  gate.opened(true);
  gate.take(buildOutput([at(1_000)]), "n");
  expect(sent.flatMap(piecesOf).map((one) => one.at)).toEqual([
    ...Array.from({ length: 32 }, (_, i) => i),
    1_000,
  ]);
  // A service that does not hear it is told nothing, and nothing is kept for it.
  gate.closed();
  gate.take(buildOutput([at(2_000)]), "n");
  gate.opened(false);
  gate.take(buildOutput([at(2_001)]), "n");
  gate.opened(true);
  expect(sent.flatMap(piecesOf)).toHaveLength(33);
});
