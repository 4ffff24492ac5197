/** Results of a simulated agent on their way up: as results/outcomes.ts wires them, without payload files. */
import { buildResults, decodeFrame, FRAMES_UP, type HelloFrame } from "@farloom/protocol";
import { type JournalRecord, RECORD } from "../../apps/endpoint-agent/src/journal/format.js";
import type { LinkSession } from "../../apps/endpoint-agent/src/link/connection.js";
import type { ResultBatch } from "../../apps/endpoint-agent/src/results/result-sender.js";
import { encodeSettled, type Settled } from "../../apps/endpoint-agent/src/results/settle.js";
import { type HeldTask, ownResult } from "../../apps/endpoint-agent/src/scheduler/held-task.js";
import type { Scheduler } from "../../apps/endpoint-agent/src/scheduler/scheduler.js";
import type { Wire } from "./wire.js";

export class Outcomes {
  /** What may go up once the journal is committed. */
  readonly ready: ResultBatch[] = [];
  readonly #scheduler: Scheduler;
  readonly #append: (record: JournalRecord) => void;

  constructor(scheduler: Scheduler, append: (record: JournalRecord) => void) {
    this.#scheduler = scheduler;
    this.#append = append;
  }

  finished(settled: Settled): void {
    this.#scheduler.handle({ kind: "finished", tasks: settled.tasks });
    const batches = encodeSettled(settled);
    for (const batch of batches) this.#append({ type: RECORD.result, payload: batch.bytes });
    this.ready.push(...batches);
  }

  /** An outcome that the agent itself gives. */
  finishHere(tasks: readonly HeldTask[], outcome: Parameters<typeof ownResult>[1]): void {
    const open = tasks.filter((task) => task.result === undefined);
    if (open.length === 0) return;
    const items = open.map((task) => ownResult(task, outcome, 0));
    const frame = buildResults(items, 0, items.length);
    for (const [index, task] of open.entries()) task.result = { frame, index };
    this.finished({ tasks: open, frame });
  }
}

/** The agent's side of a wire: what it sends as bytes is decoded, as at the service's edge. */
export function sessionOver(wire: Wire): LinkSession {
  return {
    send: (frame) => wire.sendUp(frame),
    sendBytes: (bytes) => {
      const decoded = decodeFrame(bytes, FRAMES_UP.service);
      if (!decoded.ok) throw new Error(decoded.reason);
      wire.sendUp(decoded.frame);
    },
    together: (work) => work(),
    writable: true,
    close: (code, message) => {
      throw new Error(`the agent ends the link: ${code} ${message}`);
    },
  };
}

export function helloOf(held: Buffer, unacked: number): HelloFrame {
  return { t: "hello", role: "agent", versions: [1], caps: [], software: "simulated", held, unacked };
}
