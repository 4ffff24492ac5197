/** What `doctor` looks at besides the machine: this agent's own identity, configuration, journal and life. */
import { statSync } from "node:fs";
import { isSea } from "node:sea";
import { type AgentStatus, agentStatus } from "../agent.js";
import { SOFTWARE } from "../agent-info.js";
import { checkConfigFile, readConfigFile } from "../config.js";
import { inspectJournal } from "../journal/inspect.js";
import { type Identity, readIdentity } from "../state/identity.js";
import { lockHolder } from "../state/lock.js";
import type { StatePaths } from "../state/state-dir.js";
import { brokenSurvival, installedSurvival, isStoppedOnPurpose } from "../survive/install.js";
import type { Check } from "./check.js";

export function checkProgram(): Check {
  const { node } = process.versions;
  const [major = 0, minor = 0] = node.split(".").map(Number);
  const detail = `${SOFTWARE}, Node.js ${node}${isSea() ? " in one file" : ""}`;
  const facts = { software: SOFTWARE, node, singleFile: isSea() };
  if (major > 20 || (major === 20 && minor >= 19)) return { name: "program", state: "ok", detail, facts };
  return { name: "program", state: "failed", detail, cure: "install Node.js 20.19 or newer", facts };
}

export function checkIdentity(paths: StatePaths): Check {
  const name = "identity";
  let identity: Identity | undefined;
  try {
    identity = readIdentity(paths);
  } catch (error) {
    const cure = `move ${paths.identity} aside and enrol anew: farloom endpoint create NAME --renew`;
    return { name, state: "failed", detail: (error as Error).message, cure };
  }
  if (identity === undefined) {
    const cure = "farloom endpoint create NAME, then run the line that it prints here";
    return { name, state: "failed", detail: `no endpoint is enrolled in ${paths.root}`, cure };
  }
  try {
    if ((statSync(paths.privateKey).mode & 0o077) !== 0) {
      const cure = `chmod 600 '${paths.privateKey}'`;
      return { name, state: "failed", detail: "others can read the private key", cure };
    }
  } catch {
    const cure = `move ${paths.identity} aside and enrol anew: farloom endpoint create ${identity.name} --renew`;
    return { name, state: "failed", detail: "the private key is gone", cure };
  }
  return {
    name,
    state: "ok",
    detail: `endpoint ${identity.name} of ${identity.owner} at ${identity.serviceUrl}`,
    facts: identity,
  };
}

export function checkConfiguration(paths: StatePaths): Check {
  const name = "configuration";
  try {
    const config = checkConfigFile(readConfigFile(paths.configFile), paths.root);
    const { provider = "local", maxBlocks = 0 } = config.blocks ?? {};
    const detail = config.blocks
      ? `provider ${provider}, at most ${maxBlocks} blocks of ${config.blocks.nodesPerBlock} nodes`
      : `${config.workers} workers on this machine`;
    return { name, state: "ok", detail, facts: { provider, workers: config.workers } };
  } catch (error) {
    const cure = `edit ${paths.configFile} (docs/blocks.md), or write it anew: farloom endpoint configure --force`;
    return { name, state: "failed", detail: (error as Error).message, cure };
  }
}

export function checkJournal(paths: StatePaths): Check {
  const name = "journal";
  try {
    const found = inspectJournal(paths.journal);
    const { segments, sizeBytes, damaged, records } = found;
    const detail = `${segments} segments, ${records} records, ${(sizeBytes / 1024 ** 2).toFixed(1)} MB`;
    if (!damaged) return { name, state: "ok", detail, facts: found };
    const cure =
      "nothing is to be done: the agent keeps what is readable, and counts the rest as maybe started. Is the disk sound?";
    return { name, state: "warning", detail: `${detail}; its end is missing or damaged`, cure, facts: found };
  } catch (error) {
    const cure = `start the version of the agent that wrote it, or move ${paths.journal} aside to give up the tasks in it`;
    return { name, state: "failed", detail: (error as Error).message, cure };
  }
}

export async function checkLife(paths: StatePaths): Promise<Check> {
  const name = "agent";
  const answer = await agentStatus(paths.root);
  if (answer.running) return lifeOf(name, answer.status);
  const holder = lockHolder(paths.lock);
  if (holder !== undefined) {
    const detail = `process ${holder.pid} on ${holder.host} has this folder, and does not answer here`;
    const cure = "it may be another login node's: log in there; or it hangs: farloom endpoint restart";
    return { name, state: "warning", detail, cure };
  }
  const cure = "farloom endpoint start";
  if (isStoppedOnPurpose(paths.root))
    return { name, state: "warning", detail: "stopped, and stays so until it is started", cure };
  return { name, state: "failed", detail: "does not run", cure };
}

function lifeOf(name: string, { pid, link, journalWritable }: AgentStatus): Check {
  if (!journalWritable) {
    const cure = "make room on the disk of the state folder: it takes no task before";
    return { name, state: "failed", detail: `process ${pid} cannot write its journal`, cure };
  }
  if (link.phase === "open") return { name, state: "ok", detail: `process ${pid} is connected` };
  const cure = "see the checks of service and link above; farloom endpoint logs says why it was refused";
  return { name, state: "failed", detail: `process ${pid} is not connected: ${JSON.stringify(link)}`, cure };
}

export function checkSurvival(stateDir: string): Check {
  const name = "survival";
  const installed = installedSurvival(stateDir);
  const cure = "farloom endpoint enroll, without a code, installs the best that there is here";
  if (installed === undefined || installed.method === "none")
    return {
      name,
      state: "warning",
      detail: "nothing brings the agent back after a reboot or a crash",
      cure,
    };
  const broken = brokenSurvival(stateDir, installed);
  if (broken !== undefined) return { name, state: "failed", detail: `${installed.method}: ${broken}`, cure };
  return { name, state: "ok", detail: installed.why, facts: installed };
}
