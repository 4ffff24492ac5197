/** Secrets: stored by name, given to functions that name them, read back by nobody. */
import type { Rest } from "./rest.js";

/** A secret without its value. */
export interface SecretInfo {
  readonly name: string;
  /** The endpoints that it may go to alone, as owner/name; empty: yours. */
  readonly endpoints: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
  /** To the minute; absent: never. */
  readonly lastUsedAt?: string;
}

export interface SetSecretOptions {
  /** The endpoints that it may go to, by id, name or owner/name. Default: all of yours, and no other. */
  readonly endpoints?: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

export class SecretsApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  /** Stores a secret, or another value for it. */
  set(name: string, value: string, { endpoints, signal }: SetSecretOptions = {}): Promise<SecretInfo> {
    const json = { value, ...(endpoints && { endpoints }) };
    return this.#rest.json({ method: "PUT", path: pathOf(name), json, signal, idempotent: true });
  }
  /** By name, without values. */
  list({
    signal,
  }: {
    readonly signal?: AbortSignal | undefined;
  } = {}): Promise<{ readonly items: SecretInfo[] }> {
    return this.#rest.json({ path: "/v1/secrets", signal });
  }
  /** Tasks that begin from now on are not given it. @throws FarloomError SECRET_NOT_FOUND */
  async remove(name: string, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: pathOf(name), signal });
  }
}

function pathOf(name: string): string {
  return `/v1/secrets/${encodeURIComponent(name)}`;
}
