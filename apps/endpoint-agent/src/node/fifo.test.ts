import fc from "fast-check";
import { expect, it } from "vitest";
import { Fifo } from "./fifo.js";

it("gives items in the order in which they came, whatever was taken out and put back meanwhile", () => {
  const act = fc.record({ take: fc.nat({ max: 6 }), back: fc.boolean() });
  fc.assert(
    fc.property(fc.nat({ max: 60 }), fc.array(act, { maxLength: 30 }), (count, acts) => {
      const queue = new Fifo<number>();
      for (let i = 0; i < count; i++) queue.push(i);
      const out: number[][] = [];
      for (const { take, back } of acts) {
        if (back && out.length > 0) {
          queue.putBack(out.splice(Math.floor(out.length / 2), 1)[0]!, (item) => item);
          continue;
        }
        const taken: number[] = [];
        while (taken.length < take && queue.length > 0) taken.push(queue.shift()!);
        out.push(taken);
      }
      for (const taken of out) queue.putBack(taken, (item) => item);
      expect([...queue]).toEqual(Array.from({ length: count }, (_, i) => i));
    }),
  );
});
