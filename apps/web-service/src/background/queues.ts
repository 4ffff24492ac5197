// BullMQ, reduced to what the jobs of this folder use, on either of its backends: Redis when a URL is given, else
// PostgreSQL (schema `bullmq`, a small pool of its own, so that a worker's LISTEN never takes a connection from
// the hot path). One queue for each kind of job.
//
// 1. Nothing here is the truth: every job can be made again from our tables, so a job may run twice, late or never.
// 2. A backend that is gone must not hold up its callers: adding a job is bounded in time, and says if it failed.
// 3. `close` is idempotent and bounded in time.
import { createPostgresBackend, type PgPool, Queue, runMigrations, Worker, withBackend } from "bullmq";
import { Redis } from "ioredis";
import pg from "pg";
import type { Logger } from "pino";

/** One job to add. BullMQ ignores an id it holds already, which is what makes adding it again harmless. */
export interface JobRequest<Data> {
  readonly id: string;
  readonly data: Data;
  readonly delayMs: number;
}

/** A kind of job: its queue and, in every replica, one worker. */
export interface JobKind<Data> {
  /** False when the backend did not take them in time. */
  add(jobs: readonly JobRequest<Data>[]): Promise<boolean>;
  /** Makes sure that one job of this kind comes every so often, over all replicas. False as above. */
  repeat(everyMs: number, data: Data): Promise<boolean>;
}

export type JobHandler<Data> = (data: Data) => Promise<void>;

/** The backend and the kinds that were opened on it. */
export interface Queues {
  open<Data extends object>(kind: string, handler: JobHandler<Data>): JobKind<Data>;
  close(): Promise<void>;
}

export interface QueuesOptions {
  /** redis:// or rediss://; without it the jobs live in PostgreSQL. */
  readonly redisUrl?: string | undefined;
  readonly databaseUrl: string;
  readonly log: Logger;
}

/** A caller waits this long for a backend; then our sweep is the quicker way. */
const ADD_TIMEOUT_MS = 2_000;
/** A job that is under way at `close` gets this long; it is then run again by somebody else. */
const CLOSE_TIMEOUT_MS = 2_000;
const CLOSE_BACKEND_TIMEOUT_MS = 500;
/** Four backends (two kinds, each a queue and a worker), two of which hold a connection to LISTEN. */
const POSTGRES_CONNECTIONS = 6;
/** A finished job leaves nothing: its id must be free when the same tasks wait again. */
const JOB_OPTIONS = {
  attempts: 3,
  backoff: { type: "exponential", delay: 500 },
  removeOnComplete: true,
  removeOnFail: true,
};

/** A queue as its kind needs it; BullMQ's own type differs with the backend. */
interface JobQueue {
  addBulk(jobs: { name: string; data: object; opts: object }[]): Promise<unknown>;
  getJobScheduler(id: string): Promise<{ every?: number } | undefined>;
  upsertJobScheduler(id: string, repeat: { every: number }, template: object): Promise<unknown>;
  on(event: "error", listener: (error: Error) => void): unknown;
  close(): Promise<void>;
}

interface JobWorker {
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "failed", listener: (job: unknown, error: Error) => void): unknown;
  close(): Promise<void>;
}

type RawHandler = (job: { data: unknown }) => Promise<void>;

interface Backend {
  createQueue(name: string): JobQueue;
  createWorker(name: string, handler: RawHandler): JobWorker;
  close(): Promise<void>;
}

export async function openQueues(options: QueuesOptions): Promise<Queues> {
  const { log } = options;
  const backend = options.redisUrl
    ? openRedis(options.redisUrl, log)
    : await openPostgres(options.databaseUrl, log);
  const kinds: { close(): Promise<void> }[] = [];
  let closing: Promise<void> | undefined;
  return {
    open(kind, handler) {
      const opened = openKind(backend, kind, { handler, log: log.child({ jobKind: kind }) });
      kinds.push(opened);
      return opened;
    },
    close() {
      closing ??= within(CLOSE_TIMEOUT_MS, Promise.all(kinds.map((kind) => kind.close())))
        .then(() => within(CLOSE_BACKEND_TIMEOUT_MS, backend.close()))
        .then(() => {});
      return closing;
    },
  };
}

function openKind<Data extends object>(
  backend: Backend,
  name: string,
  { handler, log }: { handler: JobHandler<Data>; log: Logger },
): JobKind<Data> & { close(): Promise<void> } {
  const queue = backend.createQueue(name);
  const worker = backend.createWorker(name, (job) => handler(job.data as Data));
  // Without a listener an error of a connection would end the process; the connection itself reports it.
  queue.on("error", () => {});
  worker.on("error", (error) => log.debug({ error: error.message }, "the job worker met an error"));
  worker.on("failed", (_job, error) => log.warn({ err: error }, "a job failed"));

  const attempt = async (work: Promise<unknown>): Promise<boolean> => {
    try {
      return await within(ADD_TIMEOUT_MS, work);
    } catch (error) {
      log.warn({ error: (error as Error).message }, "the job backend did not take a job");
      return false;
    }
  };
  return {
    add: (jobs) =>
      attempt(
        queue.addBulk(
          jobs.map(({ id, data, delayMs }) => ({
            name,
            data,
            opts: { ...JOB_OPTIONS, jobId: id, delay: delayMs },
          })),
        ),
      ),
    repeat: (everyMs, data) =>
      attempt(
        (async () => {
          const existing = await queue.getJobScheduler(name);
          // Upserting moves the next run, so one that stands as it should is left alone.
          if (Number(existing?.every) === everyMs) return;
          await queue.upsertJobScheduler(name, { every: everyMs }, { name, data, opts: JOB_OPTIONS });
        })(),
      ),
    async close() {
      await worker.close();
      await queue.close();
    },
  };
}

function openRedis(url: string, log: Logger): Backend {
  // Commands wait for a lost server rather than fail: a worker resumes by itself, and `add` has its own limit.
  const connection = new Redis(url, { maxRetriesPerRequest: null, lazyConnect: false });
  let lost = false;
  connection.on("error", (error) => {
    if (!lost) log.warn({ error: error.message }, "Redis is not reachable: delayed work waits for the sweep");
    lost = true;
  });
  connection.on("ready", () => {
    if (lost) log.info("Redis is back");
    lost = false;
  });
  const shared = { connection, prefix: "farloom" };
  return {
    createQueue: (name) => new Queue(name, shared),
    createWorker: (name, handler) => new Worker(name, handler, shared),
    async close() {
      connection.disconnect();
    },
  };
}

async function openPostgres(databaseUrl: string, log: Logger): Promise<Backend> {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: POSTGRES_CONNECTIONS,
    options: "-c search_path=bullmq",
    application_name: "farloom-background",
    keepAlive: true,
  });
  pool.on("error", (error) => log.warn({ error: error.message }, "a connection of the job queues was lost"));
  // BullMQ takes them out of the pool; an end that nobody listens to would end the process.
  pool.on("connect", (client) => client.on("error", () => undefined));
  const client = await pool.connect();
  try {
    await runMigrations(client, "bullmq");
  } finally {
    client.release();
  }
  const { Queue: PostgresQueue, Worker: PostgresWorker } = withBackend(createPostgresBackend);
  // BullMQ describes a pool by a subset of its methods, and pg's overloads do not fit that description.
  const shared = { connection: pool as unknown as PgPool };
  return {
    createQueue: (name) => new PostgresQueue(name, shared),
    createWorker: (name, handler) => new PostgresWorker(name, handler, shared),
    close: () => pool.end(),
  };
}

/** True when the work was done in time. What comes of it later is nobody's concern, a failure included. */
async function within(timeoutMs: number, work: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => {});
  }
}
