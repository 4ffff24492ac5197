/** The endpoint agent as a library: enrol, start, ask. The program is `main.ts`. */
import type { Logger } from "pino";
import { type Agent, runAgent } from "./agent.js";
import type { AgentConfig } from "./config.js";
import { localNode } from "./local-node.js";

export type { Agent, AgentStatus } from "./agent.js";
export { agentStatus } from "./agent.js";
export type { AgentConfig, AgentOptions } from "./config.js";
export { resolveConfig } from "./config.js";
export type { EngineStatus } from "./engine.js";
export type { EnrolOptions } from "./enrolment.js";
export { enroll, isEnrolled } from "./enrolment.js";
export { HttpFailure } from "./http.js";
export type { EndReason } from "./link/connection.js";
export type { LinkState } from "./link/supervisor.js";
export { rekey } from "./rekey.js";
export type { Identity } from "./state/identity.js";

/**
 * Starts the agent of `config.stateDir`, with a local block. Resolves once its workers of an earlier time have
 * been taken over; it connects in the background. Rejects where the folder is not enrolled, is open to others,
 * or has an agent already.
 */
export function startAgent(config: AgentConfig, log?: Logger): Promise<Agent> {
  return runAgent(config, localNode, log);
}
