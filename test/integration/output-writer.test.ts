/** What is stored of live output, and read of it again: the writer over a real PostgreSQL, with pieces as agents send them. */
import { type IdKey, keyToUuid, limits, type OutputPiece, TaskIdAllocator } from "@farloom/protocol";
import { pino } from "pino";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runRetention } from "../../apps/web-service/src/background/retention.js";
import { OutputWriter } from "../../apps/web-service/src/collect/output-writer.js";
import { readOutput } from "../../apps/web-service/src/store/task-output.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import { joined } from "../../apps/web-service/src/tasks/output.js";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";

const log = pino({ level: "silent" });
const ids = new TaskIdAllocator();
const ENDPOINT = "01a209ca-e86a-7123-ae21-400dcac571c2";
let database: TestDatabase;
let tenants: TenantPool;

beforeAll(async () => {
  database = await freshDatabase();
  tenants = new TenantPool(database.pool);
});
afterAll(() => database?.drop());

async function task(): Promise<IdKey> {
  const key = ids.next();
  await database.pool.query(
    `INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec) VALUES ($1, $2, $2, 1, $2, '\\x01', 1)`,
    [keyToUuid(key), ENDPOINT],
  );
  return key;
}
const piece = (key: IdKey, at: number, text: string, more: Partial<OutputPiece> = {}): OutputPiece => ({
  key,
  attempt: 1,
  stream: 1,
  at,
  data: Buffer.from(text),
  ...more,
});

/** A writer that is told pieces one turn after the other, each when the one before is stored, and has stored them all. */
async function store(turns: readonly (readonly OutputPiece[])[]): Promise<IdKey[]> {
  const written: IdKey[] = [];
  let next = (): void => undefined;
  const onWritten = (keys: readonly IdKey[]): void => {
    written.push(...keys);
    next();
  };
  const writer = new OutputWriter({ pool: database.pool, log, onWritten });
  for (const pieces of turns) {
    const stored = new Promise<void>((resolve) => {
      next = resolve;
    });
    writer.add(ENDPOINT, pieces);
    await stored;
  }
  await writer.close();
  return written;
}
const rows = async (key: IdKey) =>
  readOutput(tenants, { ownerId: ENDPOINT, key, attempt: 1, stream: 1 }, { offset: 0, rows: 100_000 });

it("repetitions and overlaps are stored once, by the writer that knows and by one that comes later", async () => {
  const key = await task();
  await store([[piece(key, 0, "one ")], [piece(key, 0, "one two "), piece(key, 4, "two ")]]);
  await store([[piece(key, 0, "one two three")], [piece(key, 13, " four"), piece(key, 2, "e t")]]);
  expect(joined(await rows(key), 0).data.toString()).toBe("one two three four");
});

it("many small pieces become few rows, with a gap where there is one, and streams and attempts stay apart", async () => {
  const key = await task();
  const turns = Array.from({ length: 200 }, (_, i) => [
    piece(key, i < 100 ? i : i + 50, String(i % 10)),
    piece(key, i, "e", { stream: 2 }),
    piece(key, i, "a", { attempt: 2 }),
  ]);
  const written = await store(turns);
  expect(new Set(written)).toEqual(new Set([key]));
  const digits = (n: number): string => Array.from({ length: n }, (_, i) => String(i % 10)).join("");
  const found = await rows(key);
  expect(found.length).toBeLessThan(70);
  expect(joined(found, 0)).toEqual({ at: 0, data: Buffer.from(digits(100)) });
  const behindGap = await readOutput(
    tenants,
    { ownerId: ENDPOINT, key, attempt: 1, stream: 1 },
    { offset: 120, rows: 100 },
  );
  expect(joined(behindGap, 120)).toEqual({ at: 150, data: Buffer.from(digits(100)) });
  for (const other of [
    { ownerId: ENDPOINT, key, attempt: 1, stream: 2 },
    { ownerId: ENDPOINT, key, attempt: 2, stream: 1 },
  ]) {
    const all = joined(await readOutput(tenants, other, { offset: 0, rows: 1_000 }), 0).data;
    expect(all.length).toBe(200);
  }
});

it("of a long stream the first and the last bytes are kept, of a task that is not there nothing", async () => {
  const key = await task();
  const text = "x".repeat(50_000);
  const turns = Array.from({ length: 60 }, (_, i) => [
    piece(key, i * text.length, text),
    piece(ids.next(), 0, "?"),
  ]);
  await store(turns);
  const found = await rows(key);
  const end = 60 * text.length;
  expect(joined(found, 0).data.length).toBeGreaterThanOrEqual(limits.OUTPUT_HEAD_BYTES);
  const last = found.at(-1)!;
  expect(last.at + last.data.length).toBe(end);
  const tail = joined(
    await readOutput(
      tenants,
      { ownerId: ENDPOINT, key, attempt: 1, stream: 1 },
      { offset: end - limits.OUTPUT_TAIL_BYTES, rows: 100 },
    ),
    end - limits.OUTPUT_TAIL_BYTES,
  );
  expect([tail.at, tail.data.length]).toEqual([end - limits.OUTPUT_TAIL_BYTES, limits.OUTPUT_TAIL_BYTES]);
  const kept = found.reduce((sum, { data }) => sum + data.length, 0);
  expect(kept).toBeLessThan(limits.OUTPUT_HEAD_BYTES + limits.OUTPUT_TAIL_BYTES + 4 * text.length);
  const { rows: strangers } = await database.pool.query(
    "SELECT count(*)::int AS n FROM task_output o WHERE NOT EXISTS (SELECT 1 FROM task t WHERE t.id = o.task_id)",
  );
  expect(strangers[0].n).toBe(0);
});

it("what one endpoint sends beyond its bound is left out, and another's is stored", async () => {
  const [flooded, other] = [await task(), await task()];
  const writer = new OutputWriter({ pool: database.pool, log, onWritten: () => undefined });
  const big = "y".repeat(64 * 1024);
  writer.add(
    ENDPOINT,
    Array.from({ length: 200 }, (_, i) => piece(flooded, i * big.length, big)),
  );
  writer.add("another", [piece(other, 0, "heard")]);
  await writer.close();
  expect(joined(await rows(other), 0).data.toString()).toBe("heard");
  const last = (await rows(flooded)).at(-1)!;
  expect(last.at + last.data.length).toBe(2 * limits.OUTPUT_BYTES_PER_S);
});

it("goes with its task", async () => {
  const key = await task();
  await store([[piece(key, 0, "gone")]]);
  await database.pool.query(
    `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb, finished_at)
     VALUES ($1, 1, 0, 1, '\\x', 1, 0, 0, 0, 0, now() - interval '2 days')`,
    [keyToUuid(key)],
  );
  const day = 86_400_000;
  await runRetention(
    { pool: database.pool, log, deletePayload: async () => undefined },
    { retentionMs: day, payloadGraceMs: day, idempotencyMs: day, tombstoneMs: day },
    new AbortController().signal,
  );
  expect(await rows(key)).toEqual([]);
});
