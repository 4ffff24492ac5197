/** The agent on this machine: enrol, look, stop. It is told through its own program and its state folder. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CliError, FAILED, INTERNAL } from "../exit-codes.js";
import { ask } from "./apps.js";

/** As the agent resolves it. */
export function agentStateDir(given: string | undefined): string {
  return resolve(given ?? (process.env.FARLOOM_AGENT_STATE_DIR || join(homedir(), ".farloom", "agent")));
}

export interface AgentStatus {
  readonly running: boolean;
  /** Of a running agent: what it says of itself. */
  readonly status?: Readonly<Record<string, unknown>> & {
    readonly pid?: number;
    readonly connected?: boolean;
    readonly link?: unknown;
  };
  readonly pid?: number;
  readonly identity?: { readonly name: string; readonly endpointId: string; readonly serviceUrl: string };
}

export async function agentStatus(stateDir: string): Promise<AgentStatus> {
  if (!existsSync(stateDir)) return { running: false };
  const { stdout, stderr } = await ask("endpoint-agent", ["status", "--state-dir", stateDir]);
  try {
    return JSON.parse(stdout) as AgentStatus;
  } catch {
    throw new CliError(`the agent's status cannot be read: ${(stderr || stdout).trim()}`, INTERNAL);
  }
}

/** Makes this state folder the endpoint that the code is for. The code travels by standard input. */
export async function enrolAgent(
  stateDir: string,
  serviceUrl: string,
  code: string,
  more: readonly string[] = [],
): Promise<{ name: string; endpointId: string }> {
  const args = ["enroll", "--service", serviceUrl, "--code-file", "-", "--state-dir", stateDir, ...more];
  const answer = await ask("endpoint-agent", args, { input: `${code}\n` });
  if (answer.code !== 0) throw new CliError(answer.stderr.trim() || "the enrolment failed", FAILED);
  return JSON.parse(answer.stdout) as { name: string; endpointId: string };
}

/** Ends the agent of this folder; false where none runs. */
export async function stopAgent(stateDir: string, waitMs: number): Promise<boolean> {
  const { running, status, pid } = await agentStatus(stateDir);
  const target = running ? status?.pid : pid;
  if (target === undefined) return false;
  process.kill(target, "SIGTERM");
  const endMs = performance.now() + waitMs;
  while (isAlive(target)) {
    if (performance.now() > endMs)
      throw new CliError(
        `process ${target} has not ended within ${Math.round(waitMs / 1000)} s`,
        FAILED,
        `kill -9 ${target}`,
      );
    await sleep(50);
  }
  return true;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
