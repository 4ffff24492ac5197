// A real OpenID provider (npm oidc-provider) on a loopback port, and somebody who logs in there as a browser would.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import Provider from "oidc-provider";

export interface Person {
  readonly sub: string;
  readonly email?: string;
  readonly email_verified?: boolean;
  readonly preferred_username?: string;
}

export interface TestProvider {
  readonly issuer: string;
  /** Whom its next login is for. */
  person: Person;
  close(): Promise<void>;
}

export const CLIENT = { id: "farloom", secret: "a-secret-of-the-test-provider" } as const;

/** Starts one that knows our service at `redirectUri()`. Its interactions are answered at once, for `person`. */
export async function startProvider(redirectUri: () => string): Promise<TestProvider> {
  const server: Server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const state: { person: Person } = { person: { sub: "nobody" } };
  // Made by the first request: our service's address is known by then.
  const make = (): Provider =>
    new Provider(issuer, {
      clients: [
        {
          client_id: CLIENT.id,
          client_secret: CLIENT.secret,
          redirect_uris: [redirectUri()],
          grant_types: ["authorization_code"],
          response_types: ["code"],
        },
      ],
      claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["preferred_username"] },
      // As many providers do: what a scope stands for is in the ID token itself.
      conformIdTokenClaims: false,
      pkce: { required: () => true },
      features: { devInteractions: { enabled: false } },
      cookies: { keys: ["for the test alone"] },
      findAccount: (_ctx: unknown, sub: string) => ({
        accountId: sub,
        claims: () => ({ ...state.person, sub }),
      }),
    });
  let made: Provider | undefined;
  server.on("request", async (request, response) => {
    made ??= make();
    const provider = made;
    const answer = provider.callback();
    if (!request.url?.startsWith("/interaction/")) return answer(request, response);
    const { prompt, params, grantId } = await provider.interactionDetails(request, response);
    if (prompt.name === "login")
      return provider.interactionFinished(request, response, { login: { accountId: state.person.sub } });
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: state.person.sub, clientId: CLIENT.id });
    grant!.addOIDCScope(String(params.scope));
    await provider.interactionFinished(
      request,
      response,
      { consent: { grantId: await grant!.save() } },
      { mergeWithLastSubmission: true },
    );
  });
  return {
    issuer,
    get person() {
      return state.person;
    },
    set person(person) {
      state.person = person;
    },
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
