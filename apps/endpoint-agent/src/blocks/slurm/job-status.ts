/** A job told as a block: its state, the reason, and a sentence for people. Pure. */
import type { BlockStatus } from "../provider.js";
import { expandHostList } from "./host-list.js";
import { adviceOn, blockStateOf } from "./job-state.js";
import type { JobRow } from "./queue.js";

export function isOver(row: JobRow): boolean {
  const state = blockStateOf(row.state);
  return state === "ended" || state === "failed";
}

export function describeJob(id: string, row: JobRow): BlockStatus {
  const state = blockStateOf(row.state);
  const nodes = row.nodeList === "" ? undefined : expandHostList(row.nodeList);
  return {
    id,
    state,
    jobId: row.jobId,
    detail: sentence(row),
    ...(row.reason === "" ? {} : { reason: row.reason }),
    ...(nodes === undefined ? {} : { nodes }),
    ...(state === "pending" && row.startMs !== undefined ? { estimatedStartMs: row.startMs } : {}),
    ...(row.restarts === 0 ? {} : { restarts: row.restarts }),
  };
}

function sentence({ jobId, state, reason, nodeList, restarts }: JobRow): string {
  const advice = adviceOn(reason);
  const again = restarts === 0 ? "" : `, begun anew ${restarts} ${restarts === 1 ? "time" : "times"}`;
  switch (blockStateOf(state)) {
    case "pending":
      return `job ${jobId} waits${reason && `: ${reason}`}${advice === undefined ? "" : ` (${advice})`}${again}`;
    case "running":
      return `job ${jobId} is ${state}${nodeList && ` on ${nodeList}`}${again}`;
    default:
      return `job ${jobId} is ${state}${reason && ` (${reason})`}${again}`;
  }
}
