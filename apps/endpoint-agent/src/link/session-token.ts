/**
 * The tokens of the agent: a challenge of the service, signed, becomes one that opens one connection, or one that is good
 * for requests for 60 seconds and opens none.
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

  /** A token for requests, good for some seconds. Throws HttpFailure. */
  get(signal: AbortSignal): Promise<string> {
    if (this.#token !== undefined && this.#token.untilMs > performance.now()) {
      return Promise.resolve(this.#token.text);
    }
    this.#pending ??= this.#forRequests(signal).finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  }

  /** A new token, for one connection. Throws HttpFailure. */
  async fresh(signal: AbortSignal): Promise<string> {
    return (await this.#ask("link", signal)).token;
  }

  async #forRequests(signal: AbortSignal): Promise<string> {
    const askedAtMs = performance.now();
    const { token, expiresInMs } = await this.#ask("requests", signal);
    this.#token = { text: token, untilMs: askedAtMs + expiresInMs - LEAST_LEFT_MS };
    return token;
  }

  async #ask(use: "link" | "requests", signal: AbortSignal): Promise<{ token: string; expiresInMs: number }> {
    const base = `/v1/endpoints/${this.#endpointId}`;
    const { nonce } = await httpJson<{ nonce: string }>(new URL(`${base}/challenge`, this.#serviceUrl), {
      method: "POST",
      json: {},
      signal,
    });
    const signature = signChallenge(this.#key, this.#serviceUrl, this.#endpointId, nonce).toString(
      "base64url",
    );
    return httpJson(new URL(`${base}/session?for=${use}`, this.#serviceUrl), {
      method: "POST",
      json: { nonce, signature },
      signal,
    });
  }
}
