/** Results frames taken apart and put together again: for the rare road, where a frame cannot pass as it came. */
import {
  buildResults,
  byteOf,
  durationToWire,
  durationUsOf,
  endOf,
  fenceOf,
  keyAt,
  type ResultItem,
  type ResultsFrame,
  SEAL_BYTES,
  startOf,
  u32Of,
} from "@farloom/protocol";

/** Result i of a frame. Its bytes stay where they are. */
export function resultAt(frame: ResultsFrame, i: number): ResultItem {
  return {
    key: keyAt(frame.ids, 16 * i),
    source: frame.data,
    start: startOf(frame.ends, i),
    end: endOf(frame.ends, i),
    codec: byteOf(frame.codecs, i),
    attempt: u32Of(frame.attempts, i, 1),
    fence: fenceOf(frame.fences, i),
    seals: frame.seals,
    sealAt: SEAL_BYTES * i,
    state: byteOf(frame.states, i),
    reason: byteOf(frame.reasons, i),
    queueUs: durationUsOf(frame.queueUs, i),
    runUs: durationUsOf(frame.runUs, i),
    cpuUs: durationUsOf(frame.cpuUs, i),
    peakKb: u32Of(frame.peakKb, i),
    detail: frame.detail?.[i],
  };
}

/** The results for which `keep` says yes, as a frame. At least one must be kept. */
export function pickResults(frame: ResultsFrame, keep: (i: number) => boolean): ResultsFrame {
  const items: ResultItem[] = [];
  for (let i = 0; i < frame.n; i++) if (keep(i)) items.push(resultAt(frame, i));
  return buildResults(items, 0, items.length);
}

/** Adds microseconds to entry i of a duration column, in place. */
export function addDuration(column: Buffer, i: number, us: number): void {
  column.writeUInt32LE(durationToWire(durationUsOf(column, i) + us), 4 * i);
}
