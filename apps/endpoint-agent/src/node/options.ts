/** What a node manager is told when it is made, and the defaults of the rest. */
import type { NodeCapacity } from "@farloom/protocol";
import type { Logger } from "pino";
import type { Sandbox } from "../isolation/sandbox.js";
import type { EnvironmentsConfig } from "./environments/environment-config.js";
import type { NodeGear } from "./gear/node-gear.js";
import type { FramePort } from "./port.js";
import type { RecycleRules } from "./worker.js";

/** Which runtimes this node offers, and the programs behind them. */
export interface RuntimeConfig {
  /** Python interpreters by name; `default` runs functions that name none. Absent or empty: no Python. */
  readonly python?: Readonly<Record<string, string>>;
  /** The node binary; absent: the one that runs the agent. `false`: no Node functions. */
  readonly node?: string | false;
  /** Environments that functions name. Absent: none but those of `python`. */
  readonly environments?: EnvironmentsConfig;
  /** Whether command functions may run (their worker is the default Python interpreter's). Default true. */
  readonly command?: boolean;
}

export interface NodeManagerOptions {
  readonly port: FramePort;
  readonly log: Logger;
  /** The agent's state folder, or one of the node's own. The node manager owns `run/` in it. */
  readonly stateDir: string;
  /** Where payload files lie, which it shares with the agent. Default: `payloads/` of the state folder. */
  readonly payloadsDir?: string;
  /** How many tasks run at the same time. */
  readonly workers: number;
  readonly runtimes: RuntimeConfig;
  /** GPUs, cores and limits for its workers. Absent: workers get the environment as it is. */
  readonly gear?: NodeGear;
  /** What it says that it has. Absent: nothing, and every task may come. */
  readonly capacity?: NodeCapacity;
  /** Time between SIGTERM and SIGKILL for a task that is stopped. Default 3,000. */
  readonly killGraceMs?: number;
  /** How workers are kept apart from the machine. Default: not at all. */
  readonly sandbox?: Sandbox | undefined;
  /** When a Python worker asks to be replaced by a fresh one. Default: never. */
  readonly recycle?: RecycleRules;
  /** Environment of the workers; default: the agent's own. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** How long `start` waits for the workers of an earlier agent to dial. Default 10,000. */
  readonly adoptWaitMs?: number;
  /** Tasks in hand beyond the number of workers, where they are long or of unknown length. Default: as depth.ts says. */
  readonly prefetch?: number;
  /** How long an idle worker beyond the number of `workers` is kept warm. Default 60,000. */
  readonly idleRetireMs?: number;
}
