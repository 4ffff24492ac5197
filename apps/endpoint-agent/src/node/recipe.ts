/** What makes a worker the same as one that would be started now. */
import { createHash } from "node:crypto";
import type { RecycleRules, WorkerProgram } from "./worker.js";

/**
 * A digest of what the configuration says of a worker: its program and environment, the node's gear, and when it is
 * replaced. Where our own programs lie, and what variables the agent was started with, is not in it: both may be others
 * after an upgrade or in another shell, and warm workers outlive that.
 */
export function recipeOf(program: WorkerProgram, gear: unknown, recycle: RecycleRules): string {
  const { command, runtime, configured } = program;
  const { tasks, memoryKb } = recycle;
  const said = [command, runtime, configured ?? null, gear ?? null, tasks, memoryKb];
  return createHash("sha256").update(JSON.stringify(said)).digest("hex");
}
