/**
 * Headers that tell a browser to do nothing with our replies: they are data, never a page; the one page, /docs, has
 * a policy of its own. Constants, as computing them for each reply (as helmet does) costs as much as all the rest of a
 * small request.
 */
import type { FastifyInstance } from "fastify";

export const SECURITY_HEADERS = {
  // An object of somebody's may be HTML: neither its forms nor a base of its own lead anywhere.
  "content-security-policy":
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  // Results and keys are in here.
  "cache-control": "no-store",
} as const;

export function registerSecurityHeaders(app: FastifyInstance): void {
  app.addHook("onRequest", async (_request, reply) => {
    reply.headers(SECURITY_HEADERS);
  });
}
