/**
 * The service's side of its disk thread: jobs that gather while the thread works go to it in one message. The
 * thread starts with the first job, and again after it has died.
 *
 * Bound: a job for each slot of the staging memory and for each streamed upload that is being settled.
 */
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { DiskJob, DiskReply, DiskThreadData } from "./disk-jobs.js";

/** The built file, for this module as source and as build alike: a thread cannot run TypeScript. */
const THREAD = fileURLToPath(new URL("../../dist/payloads/disk-thread.js", import.meta.url));

interface Pending {
  readonly job: DiskJob;
  readonly resolve: (reply: DiskReply) => void;
  readonly reject: (error: Error) => void;
}

export class Disk {
  readonly #data: DiskThreadData;
  #thread: Worker | undefined;
  #waiting: Pending[] = [];
  #running: Pending[] = [];
  #scheduled = false;
  #closed = false;

  constructor(data: DiskThreadData) {
    this.#data = data;
  }

  /** Rejects with what the disk said. `actualHex` where the bytes are not what was announced. */
  async run(job: DiskJob): Promise<string | undefined> {
    const { error, actualHex } = await new Promise<DiskReply>((resolve, reject) => {
      this.#waiting.push({ job, resolve, reject });
      this.#schedule();
    });
    if (error) throw error;
    return actualHex;
  }

  /** Ends the thread; what it has not answered fails. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#thread?.terminate();
    this.#failed(new Error("the service is stopping"));
  }

  #schedule(): void {
    if (this.#scheduled || this.#running.length > 0) return;
    this.#scheduled = true;
    // After this turn of the event loop, so that uploads that end in the same one go together.
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#running.length > 0 || this.#waiting.length === 0) return;
      if (this.#closed) return this.#failed(new Error("the service is stopping"));
      this.#running = this.#waiting;
      this.#waiting = [];
      this.#thread ??= this.#start();
      this.#thread.postMessage(this.#running.map(({ job }) => job));
    });
  }

  #start(): Worker {
    const thread = new Worker(THREAD, { workerData: this.#data, name: "disk" });
    thread.on("message", (replies: DiskReply[]) => {
      const done = this.#running;
      this.#running = [];
      this.#schedule();
      for (const [i, { resolve }] of done.entries()) resolve(replies[i]!);
    });
    const ended = (error: Error): void => {
      if (this.#thread !== thread) return;
      this.#thread = undefined;
      this.#failed(error);
    };
    thread.on("error", ended);
    thread.on("exit", () => ended(new Error("the disk thread has ended")));
    // Whoever waits for a payload has a connection open; the thread itself keeps no process alive.
    thread.unref();
    return thread;
  }

  #failed(error: Error): void {
    const failed = [...this.#running, ...this.#waiting];
    this.#running = [];
    this.#waiting = [];
    for (const { reject } of failed) reject(error);
  }
}
