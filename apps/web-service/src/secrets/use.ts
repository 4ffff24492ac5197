/**
 * Which secrets a call may be given, decided when it is submitted. They are the caller's. Of a function of the caller's own
 * that is all it names; somebody else's function gets what the call itself names, so that whoever calls it has agreed.
 * What was agreed to stands in the task's option `secrets`, by name.
 */
import { FarloomError, keyToUuid, type TaskOptions } from "@farloom/protocol";
import type pg from "pg";
import type { EndpointGrant } from "../endpoints/registry.js";
import type { FunctionRecord } from "../functions/registry.js";
import { requireWide } from "../identity/authorise.js";
import { type Principal, requireScope } from "../identity/principal.js";
import { requireEndpoint, type SecretStore } from "./store.js";

export interface SecretCall {
  readonly fn: FunctionRecord;
  readonly options?: TaskOptions | undefined;
}

/** Whether a function names any; if not, nobody is asked. */
export function wantsSecrets(fn: FunctionRecord): boolean {
  return secretsOf(fn).length > 0;
}

export class SecretUse {
  readonly #pool: pg.Pool;
  readonly #store: SecretStore;

  constructor(pool: pg.Pool, store: SecretStore) {
    this.#pool = pool;
    this.#store = store;
  }

  /**
   * Of calls to one endpoint. Nothing is remembered: a secret that is removed is missing at once.
   * @returns the options that each call is taken with, in the same order
   * @throws FarloomError SCOPE_MISSING, KEY_NARROW, NESTED_SCOPE, SECRET_NOT_AGREED, SECRET_MISSING,
   * SECRET_NOT_FOR_ENDPOINT, SECRETS_UNSUPPORTED
   */
  async agree(
    principal: Principal,
    endpoint: EndpointGrant,
    calls: readonly SecretCall[],
  ): Promise<(TaskOptions | undefined)[]> {
    const wanting = calls.filter(({ fn }) => wantsSecrets(fn));
    if (wanting.length === 0) return calls.map(({ options }) => options);
    requireUser(principal);
    for (const call of wanting) requireAgreement(principal, call);
    const fns = [...new Set(wanting.map(({ fn }) => fn))];
    const known = await this.#store.reachOf(principal.ownerId, [...new Set(fns.flatMap(secretsOf))]);
    const place = {
      id: endpoint.id,
      ref: `${endpoint.ownerName}/${endpoint.name}`,
      isOwn: endpoint.ownerId === principal.ownerId,
    };
    for (const fn of fns) {
      for (const name of secretsOf(fn)) {
        const secret = known.get(name);
        if (!secret) throw new FarloomError("SECRET_MISSING", { function: fn.ref, name });
        requireEndpoint(secret, place);
      }
    }
    await this.#requireAgent(endpoint, fns[0]!);
    return calls.map(({ fn, options }) =>
      wantsSecrets(fn) ? { ...options, secrets: [...secretsOf(fn)] } : options,
    );
  }

  /** An endpoint whose agent has never connected takes the task: whichever agent comes asks for them, or cannot. */
  async #requireAgent(endpoint: EndpointGrant, fn: FunctionRecord): Promise<void> {
    const { rows } = await this.#pool.query<{ able: boolean }>({
      name: "endpoint-secrets",
      text: `SELECT agent_info IS NULL OR coalesce((agent_info ->> 'secrets')::boolean, false) AS able
             FROM endpoint WHERE id = $1`,
      values: [keyToUuid(endpoint.key)],
    });
    if (rows[0]?.able === false)
      throw new FarloomError("SECRETS_UNSUPPORTED", { function: fn.ref, endpoint: endpoint.name });
  }
}

/** Whoever holds a narrow key or a running task's token could read with them what these are not for. */
function requireUser(principal: Principal): void {
  requireWide(principal, "calling a function that is given secrets");
  if (principal.nested !== undefined)
    throw new FarloomError("NESTED_SCOPE", { detail: "a function that is given secrets is not for it" });
  requireScope(principal, "secrets:use");
}

function requireAgreement(principal: Principal, { fn, options }: SecretCall): void {
  if (fn.ownerId === principal.ownerId) return;
  const missing = secretsOf(fn).filter((name) => !options?.secrets?.includes(name));
  if (missing.length > 0)
    throw new FarloomError("SECRET_NOT_AGREED", { function: fn.ref, names: missing.join(", ") });
}

function secretsOf(fn: FunctionRecord): readonly string[] {
  return fn.definition.env.secrets ?? NONE;
}

const NONE: readonly string[] = [];
