/**
 * Headers that tell a browser to do nothing with our replies: they are data, never a page; the one page, /docs, has
 * a policy of its own. Constants, as computing them for each reply (as helmet does) costs as much as all the rest of a
 * small request.
 */
import type { FastifyInstance } from "fastify";

const HEADERS = {
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  // Results and keys are in here.
  "cache-control": "no-store",
} as const;

export function registerSecurityHeaders(app: FastifyInstance): void {
  app.addHook("onRequest", async (_request, reply) => {
    reply.headers(HEADERS);
  });
}
