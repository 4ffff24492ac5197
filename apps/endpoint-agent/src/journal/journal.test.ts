import {
  copyFileSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Scheduler } from "../scheduler/scheduler.js";
import { HEADER_BYTES, type JournalRecord, RECORD, RECORD_HEADER_BYTES } from "./format.js";
import { Journal } from "./journal.js";
import { liveRecords, replayRecords } from "./snapshot.js";

const log = pino({ level: "silent" });
let dir: string;
let opened: Journal[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-journal-"));
  opened = [];
});
afterEach(() => {
  for (const journal of opened) journal.close();
  rmSync(dir, { recursive: true, force: true });
});

function open(bootId = "boot-a") {
  const result = Journal.open({ dir, bootId, log });
  opened.push(result.journal);
  return result;
}

/** A new life on what is there: a snapshot of it, as the engine does. */
function resume(): Journal {
  const { journal, replay } = open();
  journal.compact(replay.records);
  return journal;
}

const ids = (text: string): JournalRecord => ({ type: RECORD.acked, payload: Buffer.from(text.padEnd(16)) });
const texts = (records: readonly JournalRecord[]) => records.map((r) => r.payload.toString().trim());
const segment = () => join(dir, readdirSync(dir).sort().at(-1)!);

function write(...lines: string[]): Journal {
  const journal = resume();
  for (const line of lines) journal.append(RECORD.acked, ids(line).payload);
  expect(journal.commit()).toBe(true);
  return journal;
}

describe("the journal", () => {
  it("gives back what was committed, and nothing that was not", () => {
    const journal = write("one", "two");
    journal.append(RECORD.acked, ids("three").payload);
    const { replay } = open();
    expect(texts(replay.records)).toEqual(["one", "two"]);
    expect(replay).toMatchObject({ bootId: "boot-a", cutBytes: 0 });
  });

  it("cuts a torn tail at every length, and keeps everything before it", () => {
    write("one", "two", "three").close();
    const path = segment();
    const whole = readFileSync(path);
    const record = RECORD_HEADER_BYTES + 16;
    for (let cut = 1; cut < record; cut++) {
      writeFileSync(path, whole.subarray(0, whole.length - cut));
      const { replay } = Journal.open({ dir, bootId: "boot-a", log });
      expect(texts(replay.records)).toEqual(["one", "two"]);
      expect(replay.cutBytes).toBe(record - cut);
    }
  });

  it("keeps what stands before a flipped bit, wherever it is", () => {
    write("one", "two", "three").close();
    const path = segment();
    const whole = readFileSync(path);
    const first = whole.length - 3 * (RECORD_HEADER_BYTES + 16);
    fc.assert(
      fc.property(
        fc.integer({ min: first, max: whole.length - 1 }),
        fc.integer({ min: 0, max: 7 }),
        (at, bit) => {
          const damaged = Buffer.from(whole);
          damaged[at]! ^= 1 << bit;
          writeFileSync(path, damaged);
          const { replay } = Journal.open({ dir, bootId: "boot-a", log });
          const good = Math.floor((at - first) / (RECORD_HEADER_BYTES + 16));
          expect(texts(replay.records)).toEqual(["one", "two", "three"].slice(0, good));
          expect(replay.cutBytes).toBeGreaterThan(0);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("refuses a newer format version, and says what to do", () => {
    write("one").close();
    const path = segment();
    const bytes = readFileSync(path);
    bytes.writeUInt16LE(4, 8);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 108)), 108);
    writeFileSync(path, bytes);
    expect(() => Journal.open({ dir, bootId: "boot-a", log })).toThrow(
      /has journal format 4, and this agent reads 3 and older: a newer version .* Start that version .* or move the journal folder aside/,
    );
    expect(readFileSync(path), "it is left as it was").toEqual(bytes);
  });

  it("refuses a file that is no journal", () => {
    writeFileSync(join(dir, "0000000001.journal"), Buffer.alloc(200, "x"));
    expect(() => Journal.open({ dir, bootId: "boot-a", log })).toThrow(
      /is no journal of Farloom.*Move it aside/,
    );
  });

  it("reads what version 1 wrote, and goes on in version 3", () => {
    copyFileSync(join(import.meta.dirname, "fixtures/version-1.journal"), join(dir, "0000000007.journal"));
    const { journal, replay } = open("11111111-2222-3333-4444-555555555555");
    expect(replay).toMatchObject({
      bootId: "11111111-2222-3333-4444-555555555555",
      damaged: false,
      cutBytes: 0,
    });
    const scheduler = new Scheduler();
    const bad = replayRecords(replay.records, {
      scheduler,
      nowMs: 0,
      needsOf: () => undefined,
      onKept: () => {},
      onWanted: () => {},
    });
    expect(bad).toBe(0);
    const states = [...scheduler.tasks()].map((t) => [t.key.charCodeAt(15), t.state, t.attempt]);
    expect(states).toEqual([
      [1, "done", 1],
      [2, "handed", 1],
      [3, "queued", 1],
      [4, "queued", 1],
      [5, "queued", 2],
    ]);
    journal.compact(liveRecords(scheduler));
    journal.close();
    expect(readdirSync(dir)).toEqual(["0000000008.journal"]);
    expect(readFileSync(segment()).readUInt16LE(8)).toBe(3);
    expect(open("11111111-2222-3333-4444-555555555555").replay.damaged).toBe(false);
  });

  it("starts empty after a crash before its first header was written", () => {
    writeFileSync(join(dir, "0000000001.journal"), Buffer.alloc(20));
    writeFileSync(join(dir, "0000000002.journal.new"), Buffer.alloc(20));
    expect(open().replay.records).toEqual([]);
  });

  it("replaces older segments by a snapshot, once that is synced", async () => {
    const journal = write("one", "two");
    journal.compact([ids("two")]);
    journal.append(RECORD.acked, ids("three").payload);
    journal.commit();
    expect(texts(open().replay.records)).toEqual(["two", "three"]);
    journal.close();
    expect(readdirSync(dir)).toHaveLength(1);
    expect(texts(open().replay.records)).toEqual(["two", "three"]);
  });

  it("reads a snapshot that was cut short as an addition to what came before", () => {
    const journal = write("one", "two");
    journal.compact([ids("one"), ids("two")]);
    const path = segment();
    truncateSync(path, HEADER_BYTES + RECORD_HEADER_BYTES + 16);
    expect(texts(open().replay.records)).toEqual(["one", "two", "one"]);
  });

  it("is wasteful only when garbage is more than 64 MiB and more than half", () => {
    const journal = resume();
    const big = Buffer.alloc(1024 * 1024);
    for (let i = 0; i < 65; i++) journal.append(RECORD.accepted, big);
    journal.commit();
    expect(journal.isWasteful(() => 0)).toBe(true);
    expect(journal.isWasteful(() => 10 * 1024 * 1024)).toBe(false);
    for (let i = 0; i < 65; i++) journal.append(RECORD.accepted, big);
    journal.commit();
    expect(journal.isWasteful(() => 70 * 1024 * 1024)).toBe(false);
    expect(journal.isWasteful(() => 50 * 1024 * 1024)).toBe(true);
  });

  it("is wasteful sooner on a disk with little room: half as much garbage as there is room", () => {
    const MIB = 1024 * 1024;
    const { journal } = Journal.open({
      dir,
      bootId: "boot-a",
      log,
      roomBytes: () => 20 * MIB - journal.sizeBytes,
    });
    journal.compact([]);
    const limits: number[] = [];
    for (let i = 0; i < 12; i++) {
      journal.append(RECORD.accepted, Buffer.alloc(MIB));
      journal.commit();
      if (journal.isWasteful(() => 0)) limits.push(i + 1);
    }
    expect(limits[0]).toBe(7);
    expect(journal.isWasteful(() => 11 * MIB)).toBe(false);
    expect(journal.isCompressible(() => 5 * MIB)).toBe(true);
    expect(journal.isCompressible(() => 11 * MIB)).toBe(false);
    journal.compact([]);
    expect(journal.isWasteful(() => 0)).toBe(false);
    journal.close();
  });

  it("is told from a torn tail where committed records are missing, even at a record's end", () => {
    write("one", "two", "three").close();
    const path = segment();
    const whole = readFileSync(path);
    const damagedAt = (bytes: Buffer) => {
      writeFileSync(path, bytes);
      return Journal.open({ dir, bootId: "boot-a", log }).replay.damaged;
    };
    expect(damagedAt(whole)).toBe(false);
    expect(damagedAt(Buffer.concat([whole, whole.subarray(0, 5)])), "a write that was under way").toBe(false);
    for (let cut = 1; cut <= whole.length; cut++) {
      expect(damagedAt(whole.subarray(0, whole.length - cut)), `${cut} bytes cut`).toBe(true);
    }
  });

  it("names its unbroken memory: the same over a restart, another after a boot, damage, loss or a copy", () => {
    const custody = (bootId = "boot-a", from = dir) => {
      const { journal, replay } = Journal.open({ dir: from, bootId, log });
      journal.compact(replay.records);
      journal.append(RECORD.acked, ids("x").payload);
      journal.commit();
      journal.close();
      return journal.custodyId;
    };
    const first = custody();
    expect(first).toMatch(/^[0-9a-f-]{36}$/);
    expect(custody()).toBe(first);
    const booted = custody("boot-b");
    expect(booted).not.toBe(first);
    expect(custody("boot-b")).toBe(booted);
    truncateSync(segment(), readFileSync(segment()).length - 1);
    const damaged = custody("boot-b");
    expect(damaged).not.toBe(booted);
    expect(custody("boot-b")).toBe(damaged);
    const copy = mkdtempSync(join(tmpdir(), "farloom-journal-"));
    cpSync(dir, copy, { recursive: true });
    expect(Journal.open({ dir: copy, bootId: "boot-b", log }).replay.damaged).toBe(true);
    expect(custody("boot-b", copy)).not.toBe(damaged);
    rmSync(copy, { recursive: true });
    for (const name of readdirSync(dir)) rmSync(join(dir, name));
    expect(custody("boot-b")).not.toBe(damaged);
  });
});
