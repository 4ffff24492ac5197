/**
 * How often somebody may ask: each API key (an agent: its endpoint; without a credential: the address), and each person over
 * all of their keys. In memory, for each replica; tasks and results on links are bounded by credit instead.
 *
 * A route with `config.tries` takes something that could be guessed: what it refuses as not authenticated counts against the
 * address, which then has to wait.
 */
import { FarloomError } from "@farloom/protocol";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Config } from "../config.js";
import { FailedAuthLimiter } from "./failed-auth-limiter.js";
import { TokenBuckets } from "./token-buckets.js";

declare module "fastify" {
  interface FastifyContextConfig {
    /** Refusals (401) are counted against the caller's address. */
    tries?: true;
  }
}

/** Some 150 bytes each. */
const MAX_CALLERS = 50_000;
const TRIES_RETRY_MS = 60_000;

/** Call after the policies, which say who asks. */
export function limitRates(
  app: FastifyInstance,
  config: Pick<Config, "rateLimitPerMinute" | "personRateLimitPerMinute" | "failedAuthPerMinute">,
): void {
  const callers = new TokenBuckets(config.rateLimitPerMinute, MAX_CALLERS);
  const persons = new TokenBuckets(config.personRateLimitPerMinute, MAX_CALLERS);
  const tries = new FailedAuthLimiter(config.failedAuthPerMinute);

  app.addHook("onRequest", async (request) => {
    const waitMs = callers.take(callerOf(request));
    if (waitMs > 0) throw tooMany(waitMs);
    const person = request.principal?.ownerId;
    if (person !== undefined) {
      const personWaitMs = persons.take(person);
      if (personWaitMs > 0) throw tooMany(personWaitMs);
    }
    if (request.routeOptions.config?.tries && tries.isBlocked(request.ip)) throw tooMany(TRIES_RETRY_MS);
  });
  app.addHook("onResponse", async (request, reply) => {
    if (reply.statusCode === 401 && request.routeOptions.config?.tries) tries.failed(request.ip);
  });
}

function callerOf(request: FastifyRequest): string {
  return request.principal?.keyId ?? request.objectGrant?.keyId ?? request.agent?.endpointId ?? request.ip;
}

function tooMany(waitMs: number): FarloomError {
  return new FarloomError("RATE_LIMITED", { seconds: Math.ceil(waitMs / 1000) }, { retryAfterMs: waitMs });
}
