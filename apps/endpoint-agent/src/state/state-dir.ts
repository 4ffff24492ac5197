/**
 * The agent's folder: one agent, one folder, readable by nobody else. Everything durable lies here:
 *
 *     identity.json  private-key.pem  agent.toml      who the agent is, and its configuration
 *     trust.toml  invocations                         whose functions it runs, and which signed calls it has begun
 *     agent.lock  control.sock                        which process runs it, and where it answers `status`
 *     journal/  functions/  payloads/                 what it holds
 */
import { chmodSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";

/** Where each thing lies in a state folder. */
export interface StatePaths {
  readonly root: string;
  readonly identity: string;
  readonly privateKey: string;
  readonly configFile: string;
  readonly trustFile: string;
  /** Signed calls that were taken. */
  readonly invocations: string;
  readonly lock: string;
  readonly controlSocket: string;
  readonly journal: string;
  readonly functions: string;
  readonly payloads: string;
}

export function statePaths(root: string): StatePaths {
  return {
    root,
    identity: join(root, "identity.json"),
    privateKey: join(root, "private-key.pem"),
    configFile: join(root, "agent.toml"),
    trustFile: join(root, "trust.toml"),
    invocations: join(root, "invocations"),
    lock: join(root, "agent.lock"),
    controlSocket: join(root, "control.sock"),
    journal: join(root, "journal"),
    functions: join(root, "functions"),
    payloads: join(root, "payloads"),
  };
}

/** Makes the folder where it is missing, and refuses one that belongs to, or is open to, somebody else. */
export function openStateDir(root: string): StatePaths {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const stat = statSync(root);
  if (process.getuid && stat.uid !== process.getuid()) {
    throw new Error(
      `the state folder ${root} belongs to user ${stat.uid}, not to ${process.getuid()}: use one of your own (--state-dir)`,
    );
  }
  if ((stat.mode & 0o077) !== 0) {
    throw new Error(
      `the state folder ${root} has mode ${(stat.mode & 0o777).toString(8)}: others could read its key; run: chmod 700 '${root}'`,
    );
  }
  const paths = statePaths(root);
  for (const dir of [paths.journal, paths.functions, paths.payloads]) {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    chmodSync(dir, 0o700);
  }
  return paths;
}
