/**
 * Logging in by an OpenID provider: the authorization code with PKCE. What has to be remembered between going there and
 * coming back (state, nonce, verifier) travels in a sealed cookie of the very browser that went, so that nothing is kept here
 * for strangers, and no other browser can finish what this one began.
 *
 *   1. The ID token's issuer, audience, algorithm, nonce, times and signature are all checked, by openid-client.
 *   2. Who comes in is decided by configuration, after all of that (oidc-config.ts).
 */
import { FarloomError } from "@farloom/protocol";
import { EncryptJWT, jwtDecrypt } from "jose";
import * as client from "openid-client";
import type { Logger } from "pino";
import type { ExternalClaims } from "./accounts.js";
import type { KeyRing } from "./key-ring.js";
import type { OidcProvider } from "./oidc-config.js";

/** How long somebody may take at the provider. */
export const FLOW_LIFE_S = 600;
const FLOW_TYPE = "farloom-oidc+jwt";
const TIMEOUT_S = 10;
/** What a provider says of itself is asked again after so long: its keys are looked after by openid-client itself. */
const DISCOVERY_MS = 3_600_000;

interface Flow {
  readonly provider: string;
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
  readonly next: string;
}

export class Oidc {
  readonly providers: readonly OidcProvider[];
  readonly #seal: Uint8Array;
  readonly #log: Logger;
  readonly #discovered = new Map<string, { config: Promise<client.Configuration>; untilMs: number }>();

  constructor(providers: readonly OidcProvider[], keys: KeyRing, log: Logger) {
    this.providers = providers;
    this.#seal = keys.derive("farloom oidc flows");
    this.#log = log;
  }

  /** Where to send the browser, and what it is to bring back. @throws FarloomError LOGIN_FAILED */
  async begin(id: string, redirectUri: string, next: string): Promise<{ location: string; flow: string }> {
    const provider = this.#provider(id);
    const config = await this.#config(provider);
    const flow: Flow = {
      provider: id,
      state: client.randomState(),
      nonce: client.randomNonce(),
      verifier: client.randomPKCECodeVerifier(),
      next,
    };
    const location = client.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri,
      scope: provider.scopes,
      response_type: "code",
      state: flow.state,
      nonce: flow.nonce,
      code_challenge: await client.calculatePKCECodeChallenge(flow.verifier),
      code_challenge_method: "S256",
    });
    const sealed = await new EncryptJWT({ ...flow })
      .setProtectedHeader({ alg: "dir", enc: "A256GCM", typ: FLOW_TYPE })
      .setIssuedAt()
      .setExpirationTime(`${FLOW_LIFE_S}s`)
      .encrypt(this.#seal);
    return { location: location.href, flow: sealed };
  }

  /** Who came back to `url`. @throws FarloomError LOGIN_FAILED, LOGIN_NOT_ALLOWED, ORIGIN_REFUSED */
  async finish(
    id: string,
    url: URL,
    sealedFlow: string | undefined,
  ): Promise<{ claims: ExternalClaims; next: string }> {
    const provider = this.#provider(id);
    const flow = await this.#unseal(sealedFlow);
    if (flow === undefined || flow.provider !== id)
      throw new FarloomError("ORIGIN_REFUSED", { detail: "this browser did not begin the login" });
    const config = await this.#config(provider);
    let tokens: Awaited<ReturnType<typeof client.authorizationCodeGrant>>;
    try {
      tokens = await client.authorizationCodeGrant(config, url, {
        pkceCodeVerifier: flow.verifier,
        expectedState: flow.state,
        expectedNonce: flow.nonce,
        idTokenExpected: true,
      });
    } catch (error) {
      throw this.#failed(provider, error);
    }
    const claims = tokens.claims()!;
    return { claims: admit(provider, claims), next: flow.next };
  }

  #provider(id: string): OidcProvider {
    const provider = this.providers.find((known) => known.id === id);
    if (!provider) throw new FarloomError("LOGIN_NOT_ALLOWED", { detail: "there is no such provider" });
    return provider;
  }

  async #config(provider: OidcProvider): Promise<client.Configuration> {
    let known = this.#discovered.get(provider.id);
    if (known === undefined || known.untilMs < performance.now()) {
      known = { config: discover(provider), untilMs: performance.now() + DISCOVERY_MS };
      this.#discovered.set(provider.id, known);
    }
    try {
      return await known.config;
    } catch (error) {
      this.#discovered.delete(provider.id);
      throw this.#failed(provider, error);
    }
  }

  async #unseal(text: string | undefined): Promise<Flow | undefined> {
    if (text === undefined || text.length > 4_096) return undefined;
    try {
      const { payload } = await jwtDecrypt<Flow>(text, this.#seal, {
        keyManagementAlgorithms: ["dir"],
        contentEncryptionAlgorithms: ["A256GCM"],
        typ: FLOW_TYPE,
        requiredClaims: ["exp", "provider", "state", "nonce", "verifier", "next"],
      });
      return payload;
    } catch {
      return undefined;
    }
  }

  #failed(provider: OidcProvider, error: unknown): FarloomError {
    const { code = "", error: said } = error as { code?: string; error?: string };
    this.#log.warn(
      { provider: provider.id, code, err: (error as Error).message },
      "a login was not completed",
    );
    // What the provider itself refused (access_denied …) is in its `error`; our library says the rest by code.
    const detail = (said ?? (code || "it did not answer")).replace(/[^\w ]/g, "").slice(0, 80);
    return new FarloomError("LOGIN_FAILED", { provider: provider.label, detail }, { cause: error });
  }
}

async function discover(provider: OidcProvider): Promise<client.Configuration> {
  const { issuer, clientId, clientSecret, algorithm } = provider;
  const config = await client.discovery(
    new URL(issuer),
    clientId,
    { id_token_signed_response_alg: algorithm },
    clientSecret === undefined ? client.None() : client.ClientSecretBasic(clientSecret),
    // Plain http is for a provider on this machine alone (oidc-config.ts).
    { timeout: TIMEOUT_S, ...(issuer.startsWith("http:") && { execute: [client.allowInsecureRequests] }) },
  );
  config.timeout = TIMEOUT_S;
  // The signature is checked too, and not TLS alone trusted.
  client.enableNonRepudiationChecks(config);
  return config;
}

/** Whether they may come in, and as whom (2). @throws FarloomError LOGIN_NOT_ALLOWED */
export function admit(provider: OidcProvider, claims: client.IDToken): ExternalClaims {
  const { allow, admins } = provider;
  const email = typeof claims.email === "string" ? claims.email : "";
  const domain = claims.email_verified === true ? email.slice(email.lastIndexOf("@") + 1).toLowerCase() : "";
  const isAllowed =
    allow.anyone ||
    allow.subjects.includes(claims.sub) ||
    (domain !== "" && email.includes("@") && allow.domains.includes(domain));
  if (!isAllowed)
    throw new FarloomError("LOGIN_NOT_ALLOWED", {
      detail: `${provider.label} knows you, but neither your subject nor a verified e-mail address is on the list`,
    });
  const preferred = claims.preferred_username;
  return {
    issuer: claims.iss,
    subject: claims.sub,
    email,
    preferredName: typeof preferred === "string" && preferred !== "" ? preferred : email,
    isAdmin: admins.includes(claims.sub),
  };
}
