/** What Slurm's words for a job mean for a block. */
import type { BlockState } from "../provider.js";

/** By JobState; the man page of squeue describes them. What is not here is `unknown`. */
const STATES: Readonly<Record<string, BlockState>> = {
  PENDING: "pending",
  REQUEUED: "pending",
  REQUEUE_FED: "pending",
  REQUEUE_HOLD: "pending",
  RESV_DEL_HOLD: "pending",
  SPECIAL_EXIT: "pending",
  CONFIGURING: "running",
  RUNNING: "running",
  RESIZING: "running",
  SIGNALING: "running",
  STAGE_OUT: "running",
  STOPPED: "running",
  SUSPENDED: "running",
  // Its processes are being ended, and how the job ended is not told yet.
  COMPLETING: "running",
  COMPLETED: "ended",
  CANCELLED: "ended",
  TIMEOUT: "ended",
  PREEMPTED: "ended",
  REVOKED: "ended",
  BOOT_FAIL: "failed",
  DEADLINE: "failed",
  FAILED: "failed",
  NODE_FAIL: "failed",
  OUT_OF_MEMORY: "failed",
  RECONFIG_FAIL: "failed",
};

/** The state of a block by the state of its job. sacct adds to the word: `CANCELLED by 1000`. */
export function blockStateOf(jobState: string): BlockState {
  const word = jobState.split(" ", 1)[0]!;
  return Object.hasOwn(STATES, word) ? STATES[word]! : "unknown";
}

/** Reasons for which a job waits until somebody changes something: waiting longer does not help. */
const STUCK: readonly (readonly [RegExp, string])[] = [
  [/^PartitionNodeLimit$/, "the partition does not allow so many nodes"],
  [/^PartitionTimeLimit$/, "the walltime is above the partition's limit"],
  [/^(?:PartitionDown|PartitionInactive)$/, "the partition takes no jobs now"],
  [/^BadConstraints$/, "no node has what is asked for"],
  [/^ReqNodeNotAvail/, "nodes that were asked for are down or reserved"],
  [/^(?:AccountNotAllowed|QOSNotAllowed|InvalidAccount|InvalidQOS)$/, "account or qos may not be used here"],
  [/^JobHeld(?:User|Admin)$/, "it is held: scontrol release lets it go"],
  [/^DependencyNeverSatisfied$/, "what it depends on did not succeed"],
  [
    /^(?:Assoc|QOS|Assoc?Grp|Max).*(?:Limit|PerUser|PerAccount|PerJob)/,
    "a limit of the account or qos is reached",
  ],
  [
    /^launch failed requeued held$/,
    "its nodes could not begin it, and Slurm holds it: scontrol release lets it go",
  ],
];

/** What somebody can do about a job that waits for this reason, or undefined where there is nothing but to wait. */
export function adviceOn(reason: string): string | undefined {
  return STUCK.find(([pattern]) => pattern.test(reason))?.[1];
}
