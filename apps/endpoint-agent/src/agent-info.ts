/** What the agent says of itself and its machine in its hello, and in `status`. */
import { readFileSync } from "node:fs";
import { arch, availableParallelism, hostname, platform, release, totalmem } from "node:os";
import type { AgentInfo, GearInfo, IsolationInfo, PythonInfo } from "@farloom/protocol";
import type { AgentConfig } from "./config.js";
import { ownPython, probeImage, probePythons } from "./node/environments/python-probe.js";
import { pythonVersion } from "./python-version.js";

/** `farloom-endpoint-agent/<version>`. */
export const SOFTWARE = `farloom-endpoint-agent/${ownVersion()}`;

export async function readAgentInfo(
  config: AgentConfig,
  bootId: string,
  isolation: IsolationInfo,
  gear?: GearInfo,
): Promise<AgentInfo> {
  const { runtimes, pythons } = await (isolation.level === "container" ? inImage(config) : onMachine(config));
  return {
    host: hostname(),
    os: `${platform()} ${release()} ${arch()}`,
    bootId,
    nodeVersion: process.versions.node,
    runtimes,
    ...(Object.keys(pythons).length > 0 && { pythons }),
    // Nodes of blocks are other machines, with Pythons of their own.
    ...(config.blocks === undefined && { pythonsOf: "nodes" }),
    workers: config.workers,
    cores: availableParallelism(),
    memoryMb: Math.round(totalmem() / (1024 * 1024)),
    ...(gear === undefined ? {} : { gear }),
    isolation,
    secrets: true,
  };
}

/** What functions may be written in, and the Pythons that run them, by environment. */
interface Programs {
  readonly runtimes: Record<string, string>;
  readonly pythons: Record<string, PythonInfo>;
}

async function onMachine(config: AgentConfig): Promise<Programs> {
  const [python, probed] = await Promise.all([
    pythonVersion(config.python),
    probePythons(config.environments, { python: config.python, env: process.env }),
  ]);
  const { node } = process.versions;
  if (python === undefined) return { runtimes: { node }, pythons: probed };
  const pythons = { ...probed, default: probed.default ?? (await ownPython(config.python, python)) };
  return { runtimes: { node, python, command: "1" }, pythons };
}

/** Workers in an image have its Python alone (runtimesInImage). One that does not say what it is goes untold. */
async function inImage(config: AgentConfig): Promise<Programs> {
  const python = await probeImage(config.isolation);
  if (python === undefined) return { runtimes: {}, pythons: {} };
  return { runtimes: { python: python.version, command: "1" }, pythons: { default: python } };
}

function ownVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
