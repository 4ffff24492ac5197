/** What the agent says of itself and its machine in its hello, and in `status`. */
import { readFileSync } from "node:fs";
import { arch, availableParallelism, hostname, platform, release, totalmem } from "node:os";
import type { AgentInfo, IsolationInfo, PythonInfo } from "@farloom/protocol";
import type { AgentConfig } from "./config.js";
import { printed, pythonVersion } from "./python-version.js";

/** With its packages, as the worker runs: what pickles of functions need there. */
const PACKAGES_PROBE = "import importlib.metadata as m;print(m.version('cloudpickle'))";

/** `farloom-endpoint-agent/<version>`. */
export const SOFTWARE = `farloom-endpoint-agent/${ownVersion()}`;

export async function readAgentInfo(
  config: AgentConfig,
  bootId: string,
  isolation: IsolationInfo,
): Promise<AgentInfo> {
  const runtimes: Record<string, string> = { node: process.versions.node };
  const python = await pythonVersion(config.python);
  if (python !== undefined) {
    runtimes.python = python;
    runtimes.command = "1";
  }
  return {
    host: hostname(),
    os: `${platform()} ${release()} ${arch()}`,
    bootId,
    nodeVersion: process.versions.node,
    runtimes,
    ...(python === undefined ? {} : { pythons: { default: await pythonInfo(config.python, python) } }),
    workers: config.workers,
    cores: availableParallelism(),
    memoryMb: Math.round(totalmem() / (1024 * 1024)),
    isolation,
  };
}

/** Of the interpreter that runs functions, so that a client can compare before it sends. */
async function pythonInfo(python: string, version: string): Promise<PythonInfo> {
  const cloudpickle = await printed(python, ["-c", PACKAGES_PROBE]);
  return { version, program: python, ...(cloudpickle === undefined ? {} : { cloudpickle }) };
}

function ownVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
