/** Tasks on their way to a node, as frames: a batch that goes on whole stays the frame that it came in. */
import { batchLength, buildTasks, fenceOf, type TasksFrame } from "@farloom/protocol";
import { functionOf, type HeldTask, toTaskItem } from "./held-task.js";

/** Smaller batches are put together instead of being passed on one by one. */
const PASS_ON_ITEMS = 16;

/** The frames that carry `tasks`, in their order. */
export function tasksFrames(tasks: readonly HeldTask[]): TasksFrame[] {
  const frames: TasksFrame[] = [];
  let loose: HeldTask[] = [];
  const build = (): void => {
    const items = loose.map(toTaskItem);
    loose = [];
    for (let from = 0; from < items.length; ) {
      const n = batchLength(items.length, from, (i) => items[i]!.end - items[i]!.start);
      frames.push(buildTasks(items, from, n, (item) => functionOf(item.task)));
      from += n;
    }
  };
  for (let i = 0; i < tasks.length; ) {
    const { frame } = tasks[i]!;
    const isAll = tasks.length === frame.n;
    if ((isAll || frame.n >= PASS_ON_ITEMS) && isWhole(tasks, i, frame)) {
      build();
      frames.push(frame);
      i += frame.n;
    } else loose.push(tasks[i++]!);
  }
  build();
  return frames;
}

/** Whether `frame` is exactly the tasks from `from` on, under the attempts and leases it says. */
function isWhole(tasks: readonly HeldTask[], from: number, frame: TasksFrame): boolean {
  if (from + frame.n > tasks.length) return false;
  for (let i = 0; i < frame.n; i++) {
    const task = tasks[from + i]!;
    if (task.frame !== frame || task.index !== i || task.whole !== undefined) return false;
    const said = frame.attempts === undefined ? 1 : frame.attempts.readUInt32LE(4 * i);
    if (task.attempt !== said || task.fence !== fenceOf(frame.fences, i)) return false;
  }
  return true;
}
