/**
 * The token that opens the agent's link and its payload files: a challenge of the service, signed, becomes 60
 * seconds of trust. Nothing that is sent can be replayed.
 */
import type { KeyObject } from "node:crypto";
import { httpJson } from "../http.js";
import { signChallenge } from "../state/identity.js";

/** A token with less than this left is not handed out: a request takes time to arrive. */
const LEAST_LEFT_MS = 10_000;

export class SessionTokens {
  readonly #serviceUrl: string;
  readonly #endpointId: string;
  readonly #key: KeyObject;
  #token: { readonly text: string; readonly untilMs: number } | undefined;
  #pending: Promise<string> | undefined;

  constructor(serviceUrl: string, endpointId: string, key: KeyObject) {
    this.#serviceUrl = serviceUrl;
    this.#endpointId = endpointId;
    this.#key = key;
  }

  /** A token that is good for some seconds. Throws HttpFailure. */
  get(signal: AbortSignal): Promise<string> {
    if (this.#token !== undefined && this.#token.untilMs > performance.now()) {
      return Promise.resolve(this.#token.text);
    }
    this.#pending ??= this.fresh(signal).finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  }

  /** A new token, for a new connection. */
  async fresh(signal: AbortSignal): Promise<string> {
    const base = `/v1/endpoints/${this.#endpointId}`;
    const { nonce } = await httpJson<{ nonce: string }>(new URL(`${base}/challenge`, this.#serviceUrl), {
      method: "POST",
      json: {},
      signal,
    });
    const signature = signChallenge(this.#key, this.#serviceUrl, this.#endpointId, nonce).toString(
      "base64url",
    );
    const askedAtMs = performance.now();
    const { token, expiresInMs } = await httpJson<{ token: string; expiresInMs: number }>(
      new URL(`${base}/session`, this.#serviceUrl),
      { method: "POST", json: { nonce, signature }, signal },
    );
    this.#token = { text: token, untilMs: askedAtMs + expiresInMs - LEAST_LEFT_MS };
    return token;
  }
}
