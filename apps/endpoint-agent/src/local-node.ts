/** The node of a local block: a node manager in the agent's own process, with this machine's runtimes. */
import type { NodeFactory } from "./agent.js";
import { localCapacity } from "./node/capacity.js";
import { NodeManager } from "./node/node-manager.js";

export const localNode: NodeFactory = ({ port, log, config, agentInfo, gear, sandbox }) => {
  const manager = new NodeManager({
    port,
    log,
    stateDir: config.stateDir,
    workers: config.workers,
    runtimes: {
      ...(agentInfo.runtimes.python === undefined ? {} : { python: { default: config.python } }),
      command: agentInfo.runtimes.command !== undefined,
      environments: config.environments,
    },
    sandbox,
    killGraceMs: config.killGraceMs,
    recycle: { tasks: config.recycleTasks, memoryKb: config.recycleMemoryMb * 1024 },
    env: process.env,
    ...(gear && { gear, capacity: localCapacity(config.workers, process.env, gear.capacity) }),
  });
  return {
    start: () => manager.start(),
    close: ({ stopWorkers }) => manager.close({ leaveWorkers: !stopWorkers }),
  };
};
