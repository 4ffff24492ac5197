import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AgentAuditRecord, agentAuditLine } from "@farloom/protocol";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { AuditLog, type AuditLogOptions } from "./audit-log.js";
import { verifyAudit } from "./verify-audit.js";

const log = pino({ level: "silent" });
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-audit-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const open = (more: Partial<AuditLogOptions> = {}, folder = dir): AuditLog =>
  AuditLog.open({ dir: folder, mode: "tasks", keepBytes: 1 << 30, log, ...more });

/** One record each. */
function tell(audit: AuditLog, from: number, to: number, padding = ""): void {
  for (let i = from; i < to; i++) {
    audit.entry({ what: "told", number: i, ...(padding && { padding }) });
    audit.write();
  }
}
const files = (): string[] => readdirSync(dir).sort();
const path = (file: string): string => join(dir, file);
const linesOf = (file: string): string[] => readFileSync(path(file), "utf8").trimEnd().split("\n");
const put = (file: string, lines: readonly string[]): void =>
  writeFileSync(path(file), `${lines.join("\n")}\n`);

async function records(folder = dir): Promise<AgentAuditRecord[]> {
  const all: AgentAuditRecord[] = [];
  const verdict = await verifyAudit(folder, { onRecord: (record) => all.push(record) });
  expect(verdict.why).toBeUndefined();
  return all;
}

describe("the agent's audit", () => {
  it("puts what has gathered into one record, for its user alone, and the chain is whole", async () => {
    const audit = open();
    for (let i = 0; i < 3; i++) audit.entry({ what: "told", number: i });
    audit.write();
    tell(audit, 3, 5);
    audit.close();
    const all = await records();
    expect(all.map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(all[0]!.entries).toHaveLength(3);
    expect(statSync(path(files()[0]!)).mode & 0o777).toBe(0o600);
    expect(audit.head).toBe(`3:${all[2]!.hash}`);
  });

  it("goes on where the last agent left it, over files that are full", async () => {
    let audit = open({ fileBytes: 1000 });
    tell(audit, 0, 6);
    audit.close();
    audit = open({ fileBytes: 1000 });
    tell(audit, 6, 12);
    audit.close();
    expect(files().length).toBeGreaterThan(2);
    expect((await records()).map(({ entries }) => entries[0]!.number)).toEqual([...Array(12).keys()]);
  });

  it("touches nothing where it is off", () => {
    const audit = open({ mode: "off" }, path("none"));
    audit.entry({ what: "told" });
    audit.write();
    audit.close();
    expect(files()).toEqual([]);
  });

  it("drops the oldest files, and says up to which record; where nothing says so the beginning is missing", async () => {
    const audit = open({ fileBytes: 1000, keepBytes: 4000 });
    tell(audit, 0, 40);
    audit.close();
    expect(files()[0]).not.toBe("00000001.jsonl");
    const all = await records();
    expect(all[0]!.seq).toBeGreaterThan(1);
    const sizeBytes = files().reduce((sum, file) => sum + statSync(path(file)).size, 0);
    expect(sizeBytes).toBeLessThanOrEqual(4500);
    rmSync(path(files()[0]!));
    expect((await verifyAudit(dir)).why).toContain("is missing, and nothing says that it was dropped");
  });

  it("cuts a torn record off, says so, and goes on; to whoever verifies it is no tampering", async () => {
    tell(open(), 0, 3);
    const [file] = files();
    const whole = statSync(path(file!)).size;
    truncateSync(path(file!), whole - 7);
    const torn = await verifyAudit(dir);
    expect(torn).toMatchObject({ whole: true, cutBytes: expect.any(Number) });
    expect(torn.head).toMatch(/^2:/);
    const audit = open();
    tell(audit, 3, 4);
    const all = await records();
    expect(all.at(-1)!.entries[0]).toEqual({ what: "audit.cut", bytes: torn.cutBytes });
    expect(all.at(-1)!.entries[1]).toMatchObject({ number: 3 });
  });

  it("leaves what was changed as it is, and the next start does not hide it", async () => {
    tell(open(), 0, 3);
    const [file] = files() as [string];
    const lines = linesOf(file);
    put(file, [...lines.slice(0, 2), lines[2]!.replace('"number":2', '"number":7')]);
    const audit = open();
    tell(audit, 3, 4);
    expect(linesOf(file)).toHaveLength(4);
    expect((await verifyAudit(dir)).whole).toBe(false);
  });

  it("keeps what cannot be written, bounded, and writes it when it can", async () => {
    const audit = open({}, path("gone"));
    rmSync(path("gone"), { recursive: true });
    audit.entry({ what: "told", text: "x".repeat(5 << 20) });
    expect(audit.write()).toBe(false);
    expect(audit.isFull).toBe(true);
    open({}, path("gone"));
    expect(audit.write()).toBe(true);
    expect(audit.isFull).toBe(false);
    expect(await records(path("gone"))).toHaveLength(1);
  });
});

describe("what is done to the files shows", () => {
  /** Three files of some records, and what verify said of them. */
  async function three(): Promise<{ names: string[]; head: string }> {
    const audit = open({ fileBytes: 1000 });
    tell(audit, 0, 12);
    audit.close();
    const { whole, head } = await verifyAudit(dir);
    expect(whole).toBe(true);
    expect(files().length).toBeGreaterThanOrEqual(3);
    return { names: files(), head };
  }

  const KINDS: Readonly<Record<string, (names: string[]) => void>> = {
    "a field is another": ([name]) =>
      put(
        name!,
        linesOf(name!).map((line) => line.replace('"number":1,', '"number":5,')),
      ),
    "a record is hashed anew": ([name]) => {
      const [one, two, ...rest] = linesOf(name!);
      const first = JSON.parse(one!) as AgentAuditRecord;
      const { line } = agentAuditLine(first, first.at, ['{"number":66,"what":"told"}']);
      expect(line).not.toBe(two);
      put(name!, [one!, line, ...rest]);
    },
    "the same in another spelling": ([name]) =>
      put(
        name!,
        linesOf(name!).map((line) => line.replace('{"at"', '{ "at"')),
      ),
    "a shadowed field": ([name]) =>
      put(
        name!,
        linesOf(name!).map((line) => line.replace('{"at":', '{"entries":[{"what":"told"}],"at":')),
      ),
    "a line is left out": ([name]) =>
      put(
        name!,
        linesOf(name!).filter((_, i) => i !== 1),
      ),
    "a line comes twice": ([name]) =>
      put(
        name!,
        linesOf(name!).flatMap((line, i) => (i === 1 ? [line, line] : [line])),
      ),
    "two lines change places": ([name]) => {
      const [one, two, ...rest] = linesOf(name!);
      put(name!, [two!, one!, ...rest]);
    },
    "the end of a file in the middle is cut off in a record": ([, name]) =>
      truncateSync(path(name!), statSync(path(name!)).size - 9),
    "the end of a file in the middle is cut off at a record": ([, name]) =>
      put(name!, linesOf(name!).slice(0, -1)),
    "a file in the middle is gone": ([, name]) => rmSync(path(name!)),
    "the first file is gone": ([name]) => rmSync(path(name!)),
    "two files change places": ([one, two]) => {
      const [a, b] = [readFileSync(path(one!)), readFileSync(path(two!))];
      writeFileSync(path(one!), b);
      writeFileSync(path(two!), a);
    },
    "a file of another chain": ([, name]) => {
      const other = join(dir, "other");
      tell(open({}, other), 0, 12);
      writeFileSync(path(name!), readFileSync(join(other, "00000001.jsonl")));
    },
    "bytes behind the last record of a file": ([name]) => appendFileSync(path(name!), "\n"),
  };

  for (const [what, change] of Object.entries(KINDS))
    it(`${what}: found`, async () => {
      const { names } = await three();
      change(names);
      const verdict = await verifyAudit(dir);
      expect(verdict).toMatchObject({ whole: false, why: expect.any(String) });
      expect(verdict.cutBytes).toBeUndefined();
    });

  it("the end cut off at a record: found by whoever kept the head", async () => {
    const { names, head } = await three();
    const last = names.at(-1)!;
    put(last, linesOf(last).slice(0, -1));
    expect((await verifyAudit(dir)).whole).toBe(true);
    expect((await verifyAudit(dir, { head })).why).toContain("its end was cut off");
  });

  it("all of it made anew: found by whoever kept the head", async () => {
    const { head } = await three();
    rmSync(dir, { recursive: true });
    tell(open(), 0, 20);
    expect((await verifyAudit(dir, { head })).why).toContain("the chain was made anew");
  });
});
