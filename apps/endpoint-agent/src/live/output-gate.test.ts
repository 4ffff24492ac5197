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
  for (; now < 3_000; now += 10) gate.take(buildOutput([piece(own, 60_000)]), "n");
  expect(bytes).toBeLessThanOrEqual(4 * limits.OUTPUT_BYTES_PER_S);
  expect(bytes).toBeGreaterThan(3 * limits.OUTPUT_BYTES_PER_S);
});
