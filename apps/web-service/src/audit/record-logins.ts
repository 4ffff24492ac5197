/**
 * Audit entries of what people do at the door: a login is of nobody known until it has succeeded, so its route says what
 * happened by itself. Refusals are recorded where the account exists; tries are limited before that (identity/attempts.ts),
 * so that nobody fills the log.
 */
import type { FastifyRequest } from "fastify";
import type { AuditLog } from "./log.js";

export interface LoginEvent {
  readonly action: string;
  readonly ownerId: string;
  readonly actor: string;
  /** Id of the login. */
  readonly credential?: string;
  readonly target?: string;
  readonly status?: number;
  readonly code?: string;
  readonly detail?: Readonly<Record<string, unknown>>;
}

/** Resolves when the entry is durable. */
export async function recordLogin(
  audit: AuditLog,
  request: FastifyRequest,
  event: LoginEvent,
): Promise<void> {
  await audit.append({
    ownerId: event.ownerId,
    actor: event.actor,
    credential: event.credential ?? "",
    action: event.action,
    target: event.target ?? "",
    origin: request.ip,
    status: event.status ?? 200,
    code: event.code ?? "",
    detail: JSON.stringify(event.detail ?? {}),
  });
}
