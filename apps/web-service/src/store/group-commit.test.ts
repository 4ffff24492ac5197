import pino from "pino";
import { describe, expect, it } from "vitest";
import { GroupCommit, type Unit } from "./group-commit.js";

const log = pino({ level: "silent" });
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class TestUnit implements Unit {
  readonly size: number;
  readonly name: string;
  settled: (Error | undefined)[] = [];
  constructor(name: string, size = 1) {
    this.name = name;
    this.size = size;
  }
  settle(error: Error | undefined): void {
    this.settled.push(error);
  }
}

describe("group commit", () => {
  it("writes in one statement whatever gathered while the last ones ran, in at most `lanes` at a time", async () => {
    const statements: string[][] = [];
    const finish: (() => void)[] = [];
    const commits = new GroupCommit<TestUnit>({
      name: "test",
      lanes: 2,
      maxRows: 100,
      log,
      run: (units) => {
        statements.push(units.map((u) => u.name));
        return new Promise((resolve) => finish.push(resolve));
      },
    });
    commits.add(new TestUnit("a"));
    commits.add(new TestUnit("b"));
    await turn();
    commits.add(new TestUnit("c"));
    await turn();
    for (const name of ["d", "e", "f"]) commits.add(new TestUnit(name));
    await turn();
    expect(statements).toEqual([["a", "b"], ["c"]]);
    finish.shift()!();
    await turn();
    await turn();
    expect(statements[2]).toEqual(["d", "e", "f"]);
    for (const done of finish) done();
    await commits.idle();
  });

  it("never exceeds the rows of a statement, but for one unit that is larger", async () => {
    const sizes: number[] = [];
    const commits = new GroupCommit<TestUnit>({
      name: "test",
      lanes: 1,
      maxRows: 10,
      log,
      run: async (units) => {
        sizes.push(units.reduce((sum, u) => sum + u.size, 0));
      },
    });
    for (const size of [4, 5, 6, 30, 1]) commits.add(new TestUnit("u", size));
    await commits.idle();
    expect(sizes).toEqual([9, 6, 30, 1]);
  });

  it("tries again while the database is away, and settles each unit once (G1, G2)", async () => {
    let away = 3;
    const commits = new GroupCommit<TestUnit>({
      name: "test",
      lanes: 1,
      maxRows: 10,
      log,
      run: async () => {
        if (away-- > 0) throw Object.assign(new Error("connection refused"), { code: "ECONNREFUSED" });
      },
    });
    const unit = new TestUnit("a");
    commits.add(unit);
    await commits.idle();
    expect(unit.settled).toEqual([undefined]);
  });

  it("narrows a failure of the data down to the unit that causes it (G3)", async () => {
    const commits = new GroupCommit<TestUnit>({
      name: "test",
      lanes: 1,
      maxRows: 100,
      log,
      run: async (units) => {
        if (units.some((u) => u.name === "bad"))
          throw Object.assign(new Error("bad data"), { code: "22P05" });
      },
    });
    const units = ["a", "b", "bad", "c", "d"].map((name) => new TestUnit(name));
    for (const unit of units) commits.add(unit);
    await commits.idle();
    expect(units.map((u) => u.settled.length)).toEqual([1, 1, 1, 1, 1]);
    expect(units.filter((u) => u.settled[0]).map((u) => u.name)).toEqual(["bad"]);
  });
});
