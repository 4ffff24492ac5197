/**
 * Tasks of a service that does not say whose they are (P36b): each is somebody's of its own, so that no boxed worker
 * that has run one runs another. A person's id has hyphens, and is never one of these.
 */
import { encodeFrame, type IdKey, keyAt, type TaskOptions, type TasksFrame } from "@farloom/protocol";

/** The batch as it is to be kept and handed on; what it says of submitters itself is a client's word, and goes. */
export function asStrangers(frame: TasksFrame): { readonly frame: TasksFrame; readonly bytes: Buffer } {
  const opts: Record<number, TaskOptions> = {};
  for (let i = 0; i < frame.n; i++)
    opts[i] = { ...frame.opts?.[i], submitter: strangerOf(keyAt(frame.ids, 16 * i)) };
  const told = { ...frame, opts };
  return { frame: told, bytes: encodeFrame(told) };
}

function strangerOf(key: IdKey): string {
  return Buffer.from(key, "latin1").toString("hex");
}
