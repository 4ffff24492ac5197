/**
 * One audit entry for each request that changes something. Every route but those that only read declares what it is
 * called in the log, in `config.audit`, or `false` where it changes nothing that is anybody's; one that does neither
 * stops start-up. The entry is durable before the reply goes, but for a
 * failure of ours: then it follows.
 *
 * Refusals are recorded too, where it is known who was refused. What was not understood (400), and what met a limit
 * (429), asked for nothing. Requests of nobody known that are refused are not recorded: they would let anybody fill it.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { AuditEvent, AuditLog } from "./log.js";

declare module "fastify" {
  interface FastifyContextConfig {
    audit?: string | false;
  }
  interface FastifyRequest {
    /** What the handler says of the change: the id of what was made, names and levels; never payloads or secrets. */
    audited: { target?: string; detail?: Readonly<Record<string, unknown>>; isUnchanged?: boolean } | null;
    /** The code of the error that is sent. */
    problemCode: string | null;
  }
}

const READING = new Set(["GET", "HEAD", "OPTIONS"]);

/** Registers the start-up check and the hooks. Call before any route is registered, and after the policies. */
export function recordRequests(app: FastifyInstance, audit: AuditLog): void {
  app.decorateRequest("audited", null);
  app.decorateRequest("problemCode", null);
  app.addHook("onRoute", (route) => {
    const methods = [route.method].flat();
    if (methods.every((method) => READING.has(method)) || route.config?.audit !== undefined) return;
    throw new Error(
      `route ${methods.join(",")} ${route.url} does not say what it is called in the audit log`,
    );
  });
  app.addHook("onRequest", async (request) => {
    if (actionOf(request) !== undefined) audit.requireRoom();
  });
  app.addHook("onSend", async (request, reply) => {
    const event = eventOf(request, reply);
    if (event === undefined) return;
    const written = audit.append(event);
    // What failed on our side says that nobody knows what came of it: its entry follows as soon as it can be written.
    if (event.status < 500) await written;
  });
}

function actionOf(request: FastifyRequest): string | undefined {
  if (request.is404 || READING.has(request.method)) return undefined;
  return request.routeOptions.config.audit || undefined;
}

function eventOf(request: FastifyRequest, reply: FastifyReply): AuditEvent | undefined {
  const action = actionOf(request);
  const { statusCode: status } = reply;
  if (action === undefined || request.audited?.isUnchanged || status === 400 || status === 429)
    return undefined;
  const { principal, agent, objectGrant } = request;
  if (!principal && !agent && !objectGrant && status >= 400) return undefined;
  const params = Object.values((request.params ?? {}) as Record<string, string>).join(" ");
  return {
    ownerId: principal?.ownerId ?? agent?.ownerId ?? objectGrant?.ownerId ?? "",
    actor: principal?.ownerName ?? (agent ? "agent" : ""),
    credential: principal?.keyId ?? agent?.endpointId ?? objectGrant?.keyId ?? "",
    action,
    target: request.audited?.target ?? params,
    origin: request.ip,
    status,
    code: request.problemCode ?? "",
    detail: JSON.stringify(request.audited?.detail ?? {}),
  };
}
