/**
 * The agent's folder: one agent, one folder, readable by nobody else. Everything durable lies here:
 *
 *     identity.json  private-key.pem  agent.toml      who the agent is, and its configuration
 *     trust.toml  invocations                         whose functions it runs, and which signed calls it has begun
 *     agent.lock  control.sock                        which process runs it, and where it answers `status`
 *     journal/  functions/  payloads/                 what it holds
 *     audit/                                          what it did
 */
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { requirePrivateFiles, requirePrivateFolder } from "./private.js";

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
  readonly audit: string;
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
    audit: join(root, "audit"),
  };
}

/** Makes the folder where it is missing. @throws FarloomError STATE_UNSAFE where others have it, read it or could replace it */
export function openStateDir(root: string): StatePaths {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  requirePrivateFolder(root);
  const paths = statePaths(root);
  requirePrivateFiles(paths);
  for (const dir of [paths.journal, paths.functions, paths.payloads]) {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    chmodSync(dir, 0o700);
  }
  return paths;
}
