/** What the scheduler hears, and what it wants done. */
import type { IdKey, NodeCapacity, TasksFrame } from "@farloom/protocol";
import type { HeldTask } from "./held-task.js";

export type SchedulerEvent =
  /** A batch came. `needs` says how many things task i waits for; absent: none waits. */
  | {
      readonly kind: "accepted";
      readonly frame: TasksFrame;
      readonly atMs: number;
      readonly needs?: (i: number) => number;
    }
  /** One of the things that a task waited for is there. */
  | { readonly kind: "ready"; readonly task: HeldTask }
  /** Only in a replay: the journal says that these were handed to `node`. */
  | { readonly kind: "restored"; readonly node: string; readonly keys: readonly IdKey[] }
  /** Only after a replay: the journal may lack its last words, so that whatever is unfinished may be at `node`. */
  | { readonly kind: "mistrusted"; readonly node: string }
  /**
   * A node says what it holds. What it was handed and does not hold is charged as lost, or, where `whole` (no
   * worker of the time before is missing), known not to have started.
   */
  | {
      readonly kind: "node_up";
      readonly node: string;
      readonly held: ReadonlySet<IdKey>;
      readonly whole: boolean;
      /** Absent: it takes whatever its credit allows. */
      readonly capacity?: NodeCapacity | undefined;
    }
  | { readonly kind: "node_credit"; readonly node: string; readonly tasks: number; readonly bytes: number }
  /** Its connection ended, and it may come back: it gets nothing, and keeps what it has. */
  | { readonly kind: "node_away"; readonly node: string }
  /** It gets nothing more, and gives back what has not started. */
  | { readonly kind: "node_drain"; readonly node: string }
  /** The node is gone, and nobody can say what of its tasks started. */
  | { readonly kind: "node_lost"; readonly node: string }
  /** `node`: who answers a recall with them. */
  | {
      readonly kind: "node_returned";
      readonly keys: readonly IdKey[];
      readonly atMs: number;
      readonly node?: string;
    }
  /** These run, for a second already. */
  | { readonly kind: "node_started"; readonly keys: readonly IdKey[] }
  /** Results came, or were made here. */
  | { readonly kind: "finished"; readonly tasks: readonly HeldTask[] }
  /** With `unbegunOnly`, what a worker runs is left alone. */
  | { readonly kind: "cancel"; readonly keys: readonly IdKey[]; readonly unbegunOnly?: boolean }
  /** Its time to wait is over. */
  | { readonly kind: "expired"; readonly task: HeldTask }
  /** Its whole life's time is over: it ends, wherever it is. */
  | { readonly kind: "deadline"; readonly task: HeldTask }
  /** The service never heard of this finished task (P14). */
  | { readonly kind: "unknown"; readonly key: IdKey }
  /** The service has the results for good, or the tasks themselves again. */
  | { readonly kind: "forget"; readonly tasks: readonly HeldTask[] }
  /** Nothing more is handed out, and what is not handed out goes back up. */
  | { readonly kind: "drain" }
  /** The turn ends: hand out what the credit allows. `paused`: nothing for now. */
  | { readonly kind: "dispatch"; readonly atMs: number; readonly paused: boolean };

export type SchedulerEffect =
  | { readonly do: "hand"; readonly node: string; readonly tasks: readonly HeldTask[] }
  /** New tasks whose `needs` are to be met. */
  | { readonly do: "wait"; readonly tasks: readonly HeldTask[] }
  /** A kept result is wanted after all (P14). */
  | { readonly do: "answer"; readonly task: HeldTask }
  | {
      readonly do: "finish";
      readonly tasks: readonly HeldTask[];
      readonly state: number;
      readonly reason: number;
      /** Nothing of them ever ran, which who stopped them wants to know. */
      readonly confirmed?: boolean;
    }
  | {
      readonly do: "cancel_on_node";
      readonly node: string;
      readonly keys: readonly IdKey[];
      readonly why?: "deadline" | "unbegun";
    }
  | { readonly do: "recall"; readonly node: string; readonly tasks: number }
  /** The journal must say that these have not started after all. */
  | { readonly do: "unhand"; readonly tasks: readonly HeldTask[] }
  | { readonly do: "return"; readonly tasks: readonly HeldTask[] };
