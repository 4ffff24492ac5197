/**
 * Requests that wait hold no longer than the credential that they came with (P30): it is told when that is revoked, by what
 * also ends connections, and looked at again before anything is answered.
 */
import type { FastifyRequest } from "fastify";
import type { Identity } from "../identity/identity.js";
import type { Revocations } from "../link/revocations.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import { authorizationOf } from "./browser.js";
import { principalOf } from "./policy.js";

export interface Held {
  /** Aborts when the credential is revoked: within 5 s, at whichever replica. */
  readonly revoked: AbortSignal;
  /** Until it expires, in milliseconds; 0 where it has. */
  readonly leftMs: number;
  /** @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED, NESTED_ENDED where it holds no more */
  require(): Promise<void>;
  /** The request waits no more. */
  end(): void;
}

export interface HoldingDeps {
  readonly identity: Identity;
  readonly epoch: AccessEpoch;
  readonly revocations: Revocations;
  readonly publicUrl: string | undefined;
}

export class Holding {
  readonly #deps: HoldingDeps;

  constructor(deps: HoldingDeps) {
    this.#deps = deps;
  }

  /** @throws as `Held.require` */
  async begin(request: FastifyRequest): Promise<Held> {
    const { identity, epoch, revocations, publicUrl } = this.#deps;
    const require = async (): Promise<void> => {
      const { nested } = await identity.authenticate(authorizationOf(request.headers, publicUrl));
      if (nested !== undefined) await identity.nested.requireOpen(nested);
    };
    const { keyId, expiresAtMs, via } = principalOf(request);
    const stop = new AbortController();
    const session = { keyId, revoked: () => stop.abort() };
    // Known to hold under this generation: what changes from here on is told.
    const { generation } = epoch;
    await require();
    // A running task's token ends with the task, which whoever waits looks at by itself.
    if (via !== "task") revocations.opened(session, generation);
    return {
      revoked: stop.signal,
      leftMs: Math.max(0, expiresAtMs - identity.clock.nowMs()),
      require,
      end: () => revocations.ended(session),
    };
  }
}
