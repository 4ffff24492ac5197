/** The two halves of a stream over a network that delays, reorders between sessions and cuts, against plain models. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Credit, Inbox, type Mark, Outbox, type Span } from "./streams.js";

describe("custody over sessions (P10, P11)", () => {
  /** Each number chooses what happens next and to which item. */
  const actions = fc.array(fc.nat({ max: 999 }), { maxLength: 300 });

  it("loses nothing, and releases nothing before it is durable, over delayed marks and cuts", () => {
    fc.assert(
      fc.property(actions, (numbers) => {
        const box = new Outbox<number>();
        let inbox = new Inbox();
        let wire: number[] = [];
        let marks: Mark[] = [];
        let open: { item: number; span: Span }[] = [];
        const durable = new Set<number>();
        const released: number[] = [];
        let next = 0;
        const cut = (): void => {
          inbox = new Inbox();
          wire = [];
          marks = [];
          open = [];
          for (const item of box.restart()) {
            box.push(item);
            wire.push(item);
          }
        };
        for (const number of numbers) {
          const act = number % 10;
          if (act < 3) {
            box.push(next);
            wire.push(next++);
          } else if (act < 5 && wire.length > 0) {
            // A durable item that comes again is durable at once: ids are known.
            const item = wire.shift()!;
            const span = inbox.receive(1);
            if (durable.has(item)) inbox.complete(span);
            else open.push({ item, span });
          } else if (act < 7 && open.length > 0) {
            const [{ item, span }] = open.splice(number % open.length, 1) as [{ item: number; span: Span }];
            durable.add(item);
            inbox.complete(span);
          } else if (act === 7) marks.push(inbox.mark);
          else if (act === 8 && marks.length > 0) {
            const items = box.mark(marks.shift()!);
            if ("bad" in items) throw new Error(items.bad);
            released.push(...items);
          } else if (act === 9 && number % 40 === 9) cut();
          for (const item of released) expect(durable.has(item)).toBe(true);
        }
        // Whatever happened: one more session without a cut brings everything over, each exactly once.
        cut();
        for (const item of wire) {
          durable.add(item);
          inbox.complete(inbox.receive(1));
        }
        const last = box.mark(inbox.mark);
        if ("bad" in last) throw new Error(last.bad);
        expect([...released, ...last]).toEqual(Array.from({ length: next }, (_, i) => i));
        expect(box.size).toBe(0);
      }),
      { numRuns: 500 },
    );
  });

  it("refuses exactly the marks that go back or beyond, and is as before", () => {
    const mark = fc.record({ accepted: fc.nat({ max: 12 }), durable: fc.nat({ max: 12 }) });
    fc.assert(
      fc.property(fc.nat({ max: 10 }), fc.array(mark, { maxLength: 20 }), (sent, marks) => {
        const box = new Outbox<number>();
        for (let i = 1; i <= sent; i++) box.push(i);
        let stand: Mark = { accepted: 0, durable: 0 };
        for (const one of marks) {
          const { accepted, durable } = one;
          const good =
            durable <= accepted && accepted <= sent && accepted >= stand.accepted && durable >= stand.durable;
          const items = box.mark(one);
          if (good) {
            expect(items).toEqual(
              Array.from({ length: durable - stand.durable }, (_, i) => stand.durable + 1 + i),
            );
            stand = one;
          } else expect(items).toHaveProperty("bad");
          expect(box.size).toBe(sent - stand.durable);
          expect(box.at(1, sent)).toEqual(
            Array.from({ length: sent - stand.durable }, (_, i) => stand.durable + 1 + i),
          );
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("credit (P9)", () => {
  it("never lets more out than was granted, but for the one task that overdraws the bytes", () => {
    const act = fc.record({ grant: fc.boolean(), tasks: fc.nat({ max: 20 }), bytes: fc.nat({ max: 100 }) });
    fc.assert(
      fc.property(fc.array(act, { maxLength: 60 }), (acts) => {
        const credit = new Credit();
        let [grantedTasks, grantedBytes, usedTasks, usedBytes] = [0, 0, 0, 0];
        for (const { grant, tasks, bytes } of acts) {
          if (grant) {
            credit.grant(tasks, bytes);
            grantedTasks = Math.max(grantedTasks, tasks);
            grantedBytes = Math.max(grantedBytes, bytes);
          } else if (credit.room > 0) {
            expect(usedBytes).toBeLessThan(grantedBytes);
            credit.use(1, bytes);
            usedTasks++;
            usedBytes += bytes;
          }
          expect(usedTasks).toBeLessThanOrEqual(grantedTasks);
          expect(credit.room).toBe(usedBytes >= grantedBytes ? 0 : grantedTasks - usedTasks);
          expect(credit.roomBytes).toBe(Math.max(0, grantedBytes - usedBytes));
        }
      }),
      { numRuns: 500 },
    );
  });
});
