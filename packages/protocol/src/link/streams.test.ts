import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Credit, Inbox, Outbox } from "./streams.js";

describe("Outbox", () => {
  it("keeps an item until the durable mark covers it, and releases in order", () => {
    const box = new Outbox<string>();
    for (const item of ["a", "b", "c"]) box.push(item);
    expect(box.mark({ accepted: 3, durable: 0 })).toEqual([]);
    expect(box.mark({ accepted: 3, durable: 2 })).toEqual(["a", "b"]);
    expect(box.size).toBe(1);
    expect(box.restart()).toEqual(["c"]);
    expect(box.sent).toBe(0);
  });

  it("refuses marks that go back, or beyond what was sent, or durable beyond accepted", () => {
    const box = new Outbox<number>();
    box.push(1);
    box.push(2);
    box.mark({ accepted: 2, durable: 1 });
    for (const mark of [
      { accepted: 1, durable: 1 },
      { accepted: 2, durable: 0 },
      { accepted: 3, durable: 2 },
      { accepted: 1, durable: 2 },
    ]) {
      expect(box.mark(mark)).toHaveProperty("bad");
    }
    expect(box.size).toBe(1);
  });

  it("finds items by position while they are in custody", () => {
    const box = new Outbox<string>();
    for (let i = 1; i <= 3000; i++) box.push(`t${i}`);
    box.mark({ accepted: 3000, durable: 2500 });
    expect(box.at(2600, 2)).toEqual(["t2600", "t2601"]);
    expect(box.at(3000, 5)).toEqual(["t3000"]);
  });
});

describe("Inbox", () => {
  it("never marks a position durable before every earlier one is, in whatever order they complete", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 40 }).chain((sizes) =>
          fc.record({
            sizes: fc.constant(sizes),
            order: fc.shuffledSubarray([...sizes.keys()], {
              minLength: sizes.length,
              maxLength: sizes.length,
            }),
          }),
        ),
        ({ sizes, order }) => {
          const inbox = new Inbox();
          const spans = sizes.map((n) => inbox.receive(n));
          const done = new Set<number>();
          let last = 0;
          for (const index of order) {
            inbox.complete(spans[index]!);
            done.add(index);
            let expected = 0;
            for (let i = 0; i < sizes.length && done.has(i); i++) expected += sizes[i]!;
            expect(inbox.mark.durable).toBe(expected);
            expect(inbox.mark.durable).toBeGreaterThanOrEqual(last);
            last = inbox.mark.durable;
          }
          expect(inbox.mark).toEqual({ accepted: inbox.received, durable: inbox.received });
        },
      ),
    );
  });

  it("moves its mark by nothing when a later span completes first", () => {
    const inbox = new Inbox();
    const first = inbox.receive(2);
    const second = inbox.receive(3);
    expect(inbox.complete(second)).toBe(false);
    expect(inbox.complete(first)).toBe(true);
    expect(inbox.mark.durable).toBe(5);
  });
});

describe("an Outbox and an Inbox that speak to each other", () => {
  it("lose nothing and release nothing early over any sequence of sends, completions and marks", () => {
    const action = fc.constantFrom("send", "complete", "mark", "cut");
    fc.assert(
      fc.property(fc.array(action, { maxLength: 200 }), fc.infiniteStream(fc.nat()), (actions, choices) => {
        const random = (below: number): number => choices.next().value % below;
        const box = new Outbox<number>();
        let inbox = new Inbox();
        let open: { item: number; span: ReturnType<Inbox["receive"]> }[] = [];
        const durable = new Set<number>();
        const released = new Set<number>();
        let next = 0;
        for (const act of actions) {
          if (act === "send") {
            box.push(next);
            open.push({ item: next++, span: inbox.receive(1) });
          } else if (act === "complete" && open.length > 0) {
            const [one] = open.splice(random(open.length), 1);
            durable.add(one!.item);
            inbox.complete(one!.span);
          } else if (act === "mark") {
            const items = box.mark(inbox.mark);
            if ("bad" in items) throw new Error(items.bad);
            for (const item of items) released.add(item);
          } else if (act === "cut") {
            const again = box.restart();
            inbox = new Inbox();
            open = again.map((item) => {
              box.push(item);
              return { item, span: inbox.receive(1) };
            });
          }
          for (const item of released) expect(durable.has(item)).toBe(true);
        }
        expect(released.size + box.size).toBe(next);
      }),
    );
  });
});

describe("Credit", () => {
  it("never shrinks, and lets one task overdraw the bytes", () => {
    const credit = new Credit();
    expect(credit.room).toBe(0);
    credit.grant(10, 100);
    credit.grant(5, 50);
    expect(credit.room).toBe(10);
    credit.use(1, 99);
    expect(credit.room).toBe(9);
    credit.use(1, 5000);
    expect(credit.room).toBe(0);
    credit.grant(10, 6000);
    expect(credit.room).toBe(8);
  });
});
