/** What the audit says of the agent itself: that it began, and as whom it speaks. */
import { createHash } from "node:crypto";
import { hostname, userInfo } from "node:os";
import { type AgentAuditEntry, canonicalJson } from "@farloom/protocol";
import { pino } from "pino";
import { type AgentConfig, resolveConfig } from "../config.js";
import type { StatePaths } from "../state/state-dir.js";
import { AuditLog } from "./audit-log.js";

export interface Beginning {
  readonly config: AgentConfig;
  readonly identity: { readonly endpointId: string; readonly name: string; readonly owner: string };
  readonly serviceUrl: string;
  readonly software: string;
  readonly trust: string;
  readonly bootId: string;
}

/** The configuration is told by its digest, and by what of it decides what may run. */
export function startedEntry({
  config,
  identity,
  serviceUrl,
  software,
  trust,
  bootId,
}: Beginning): AgentAuditEntry {
  return {
    what: "agent.started",
    software,
    endpoint: identity.endpointId,
    name: identity.name,
    owner: identity.owner,
    service: serviceUrl,
    host: hostname(),
    user: accountName(),
    pid: process.pid,
    boot: bootId,
    config: createHash("sha256").update(canonicalJson(config)).digest("hex"),
    tells: config.audit,
    trust,
    isolation: config.isolation.level,
    allowed: config.allowFunctions.join(" ").slice(0, MAX_TEXT) || undefined,
    provider: config.blocks?.provider ?? "local",
  };
}

const MAX_TEXT = 1_000;

/** By its number where the machine has no name for it, as in many containers. */
function accountName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.getuid?.() ?? "unknown");
  }
}

/** An entry from a command, while no agent runs on the folder. A key is told by the SHA-256 of its public half. */
export function tellOfKey(paths: StatePaths, publicKey: Buffer, entry: AgentAuditEntry): void {
  const { audit: mode, auditKeepBytes: keepBytes } = resolveConfig({ stateDir: paths.root });
  const log = AuditLog.open({ dir: paths.audit, mode, keepBytes, log: pino({ level: "silent" }) });
  log.entry({ ...entry, key: createHash("sha256").update(publicKey).digest("hex") });
  log.close();
}
