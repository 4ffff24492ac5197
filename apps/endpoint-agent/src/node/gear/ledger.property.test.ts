import fc from "fast-check";
import { expect, it } from "vitest";
import { gpuSlotsOf } from "../../gpu-slots.js";
import { type Gear, GearLedger } from "./ledger.js";

it("never gives a slot or a core twice, gives whole devices whole, and gives whatever there is (G1–G3)", () => {
  const act = fc.record({
    give: fc.boolean(),
    pick: fc.nat(),
    gpuSlots: fc.nat({ max: 9 }),
    cores: fc.nat({ max: 3 }),
  });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.nat({ max: 4 }),
      fc.array(act, { maxLength: 80 }),
      (slots, gpus, acts) => {
        const devices = Array.from({ length: gpus }, (_, i) => `g${i}`);
        const ledger = new GearLedger(devices, slots, [0, 1, 2, 3]);
        const out: Gear[] = [];
        const used = (id: string): number =>
          out.reduce((sum, gear) => sum + (gear.gpus.includes(id) ? gear.gpuSlots : 0), 0);
        for (const { give, pick, gpuSlots, cores } of acts) {
          if (give) {
            const [gear] = out.splice(pick % Math.max(1, out.length), 1);
            if (gear) ledger.give(gear);
            continue;
          }
          const need = { gpuSlots, cores, memoryMb: 0 };
          const short = ledger.shortOf(need);
          const gear = ledger.take(need);
          expect(gear === undefined).toBe(short !== undefined);
          const free = devices.map((id) => slots - used(id));
          const whole = gpuSlots >= slots;
          const fitting = free.filter((n) => n >= (whole ? slots : gpuSlots)).length;
          const wanted = gpuSlots === 0 ? 0 : whole ? Math.ceil(gpuSlots / slots) : 1;
          const coresFree = 4 - out.reduce((sum, { cores: own }) => sum + own.length, 0);
          expect(gear !== undefined).toBe(fitting >= wanted && coresFree >= cores);
          if (gear === undefined) continue;
          // G3: of devices that a share fits on, the fullest.
          if (wanted === 1 && !whole)
            expect(slots - used(gear.gpus[0]!)).toBe(Math.min(...free.filter((n) => n >= gpuSlots)));
          out.push(gear);
          expect(gear.gpus).toHaveLength(wanted);
          for (const id of devices) expect(used(id)).toBeLessThanOrEqual(slots);
          const owned = out.flatMap((one) => one.cores);
          expect(new Set(owned).size).toBe(owned.length);
        }
        for (const gear of out.splice(0)) ledger.give(gear);
        expect(ledger.shortOf({ gpuSlots: gpus * slots, cores: 4, memoryMb: 0 })).toBeUndefined();
      },
    ),
    { numRuns: 300 },
  );
});

it("what an earlier agent gave out stays given, also where the number of slots is another one now", () => {
  const before = new GearLedger(["a", "b"], 1, [0, 1]);
  const whole = before.take({ gpuSlots: 1, cores: 1, memoryMb: 0 })!;
  const now = new GearLedger(["a", "b"], 4, [0, 1]);
  now.occupy(whole);
  expect(now.take({ gpuSlots: 8, cores: 0, memoryMb: 0 })).toBeUndefined();
  expect(now.take({ gpuSlots: 1, cores: 1, memoryMb: 0 })).toMatchObject({ gpus: ["b"], cores: [1] });
  now.give(whole);
  expect(now.take({ gpuSlots: 4, cores: 1, memoryMb: 0 })).toMatchObject({ gpus: ["a"], cores: [0] });
});

it.each([
  [0, 4, 0],
  [0.25, 4, 1],
  [0.3, 4, 2],
  [0.1 + 0.2, 10, 3],
  [0.5, 1, 1],
  [1, 4, 4],
  [2, 1, 2],
])("%d GPUs of %d shares each are %d of them", (gpus, slots, expected) => {
  expect(gpuSlotsOf(gpus, slots)).toBe(expected);
});
