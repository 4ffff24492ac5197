/**
 * Which payload files a task needs: its arguments' before it is handed down, its result's until the service has
 * it. Pins them, fetches and sends them.
 */
import { byteOf, CODEC_REFERENCE, decodeReference, endOf, startOf, type TasksFrame } from "@farloom/protocol";
import { argumentsOf, codecOf, type HeldTask } from "../scheduler/held-task.js";
import type { PayloadStore } from "./payload-store.js";
import type { PayloadTransfer, TransferOutcome } from "./payload-transfer.js";

export class TaskFiles {
  readonly #store: PayloadStore;
  readonly #transfer: PayloadTransfer;
  readonly #pins = new Map<HeldTask, string[]>();

  constructor(store: PayloadStore, transfer: PayloadTransfer) {
    this.#store = store;
    this.#transfer = transfer;
  }

  /** Pins what the arguments refer to, and fetches it. Undefined where they refer to nothing. */
  fetchArguments(task: HeldTask): Promise<TransferOutcome> | undefined {
    if ((codecOf(task) & CODEC_REFERENCE) === 0) return undefined;
    const reference = decodeReference(argumentsOf(task));
    if (reference === undefined) {
      return Promise.resolve({ ok: false, message: "the arguments' payload reference is malformed" });
    }
    const hex = reference.digest.toString("hex");
    this.#pin(task, hex);
    return this.#transfer.fetch(hex, reference.sizeBytes);
  }

  /** Pins what the arguments refer to, for a task that a node has already. */
  pinArguments(task: HeldTask): void {
    if ((codecOf(task) & CODEC_REFERENCE) === 0) return;
    const reference = decodeReference(argumentsOf(task));
    if (reference) this.#pin(task, reference.digest.toString("hex"));
  }

  /** Pins what the result refers to, and sends it up. Undefined where it refers to nothing. */
  sendResult(task: HeldTask): Promise<TransferOutcome> | undefined {
    const { frame, index } = task.result!;
    if ((byteOf(frame.codecs, index) & CODEC_REFERENCE) === 0) return undefined;
    const reference = decodeReference(
      frame.data.subarray(startOf(frame.ends, index), endOf(frame.ends, index)),
    );
    if (reference === undefined) {
      return Promise.resolve({ ok: false, message: "the result's payload reference is malformed" });
    }
    const hex = reference.digest.toString("hex");
    this.#pin(task, hex);
    return this.#transfer.send(hex);
  }

  /** These tasks need nothing any more. */
  release(tasks: readonly HeldTask[]): void {
    if (this.#pins.size === 0) return;
    for (const task of tasks) {
      for (const hex of this.#pins.get(task) ?? []) this.#store.unpin(hex);
      this.#pins.delete(task);
    }
  }

  #pin(task: HeldTask, hex: string): void {
    this.#store.pin(hex);
    const pins = this.#pins.get(task);
    if (pins) pins.push(hex);
    else this.#pins.set(task, [hex]);
  }
}

/** Whether a column of codecs has a reference in it. */
export function hasReference(codecs: TasksFrame["codecs"]): boolean {
  if (typeof codecs === "number") return (codecs & CODEC_REFERENCE) !== 0;
  for (const codec of codecs) if ((codec & CODEC_REFERENCE) !== 0) return true;
  return false;
}
