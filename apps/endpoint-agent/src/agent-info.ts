/** What the agent says of itself and its machine in its hello, and in `status`. */
import { readFileSync } from "node:fs";
import { arch, availableParallelism, hostname, platform, release, totalmem } from "node:os";
import type { AgentInfo, GearInfo, IsolationInfo } from "@farloom/protocol";
import type { AgentConfig } from "./config.js";
import { ownPython, probePythons } from "./node/environments/python-probe.js";
import { pythonVersion } from "./python-version.js";

/** `farloom-endpoint-agent/<version>`. */
export const SOFTWARE = `farloom-endpoint-agent/${ownVersion()}`;

export async function readAgentInfo(
  config: AgentConfig,
  bootId: string,
  isolation: IsolationInfo,
  gear?: GearInfo,
): Promise<AgentInfo> {
  const runtimes: Record<string, string> = { node: process.versions.node };
  const [python, probed] = await Promise.all([
    pythonVersion(config.python),
    probePythons(config.environments, { python: config.python, env: process.env }),
  ]);
  const pythons = { ...probed };
  if (python !== undefined) pythons.default ??= await ownPython(config.python, python);
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
    ...(Object.keys(pythons).length > 0 && { pythons }),
    workers: config.workers,
    cores: availableParallelism(),
    memoryMb: Math.round(totalmem() / (1024 * 1024)),
    ...(gear === undefined ? {} : { gear }),
    isolation,
    secrets: true,
  };
}

function ownVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
