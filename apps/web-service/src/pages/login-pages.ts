/** Logging in and out by browser: by password, by a provider, and the first time with a one-time token. */
import { FarloomError } from "@farloom/protocol";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { AppDeps } from "../app.js";
import { recordLogin } from "../audit/record-logins.js";
import { setCookie } from "../http/browser.js";
import type { Account } from "../identity/accounts.js";
import { LIFE } from "../identity/login-sessions.js";
import { FLOW_LIFE_S } from "../identity/oidc.js";
import { MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS } from "../identity/passwords.js";
import { personScopes } from "../identity/principal.js";
import { type Html, html, sendPage } from "./html.js";
import { field, nextOf, refusal, Visit } from "./visit.js";

const tags = ["login"];
const FORM = ["application/x-www-form-urlencoded"];
const Text = (maxLength: number) => Type.Optional(Type.String({ maxLength }));
const MAX_SECRET = 4 * MAX_PASSWORD_CHARS;

export function loginPages(scope: FastifyInstance, deps: AppDeps): void {
  const { identity, people, audit, config } = deps;
  const { accounts, oidc, passwordTries, addressTries } = people;
  const visit = (request: FastifyRequest, reply: FastifyReply) =>
    Visit.of({ identity, publicUrl: config.publicUrl }, request, reply);

  /** Opens a login for an account that has proved itself, and sends the browser on. */
  const enter = async (
    request: FastifyRequest,
    reply: FastifyReply,
    login: { readonly at: Visit; readonly account: Account; readonly by: string; readonly next: string },
  ) => {
    const { at, account, by, next } = login;
    const client = (request.headers["user-agent"] ?? "a browser").slice(0, 200);
    const { id, secret } = await identity.sessions.open("browser", {
      ownerId: account.ownerId,
      scopes: personScopes(true),
      client,
      origin: request.ip,
    });
    await recordLogin(audit, request, {
      action: "sessions.login",
      ownerId: account.ownerId,
      actor: account.name,
      credential: id,
      target: id,
      detail: { by },
    });
    // A login that was there before is not taken over: the cookie is another one.
    at.addCookie(setCookie("session", at.place, secret, LIFE.browser.lifeMs / 1000));
    at.addCookie(setCookie("visitor", at.place));
    return reply.redirect(next, 303);
  };

  const loginPage = (reply: FastifyReply, at: Visit, next: string, error?: unknown) => {
    const status = error instanceof FarloomError ? error.status : 200;
    const providers = oidc.providers.map(
      ({ id, label }) =>
        html`<a class="button" href="/login/oidc/${id}?next=${encodeURIComponent(next)}">Log in with ${label}</a>`,
    );
    const body = html`${refusal(error)}${providers}
<form method="post" action="/login">${at.token()}
<input type="hidden" name="next" value="${next}">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required maxlength="63">
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button class="main">Log in</button></form>`;
    return sendPage(reply, "Log in", body, status);
  };

  scope.get(
    "/login",
    {
      config: { policy: { public: true } },
      schema: { tags, summary: "A page: log in", querystring: Type.Object({ next: Text(200) }) },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      const next = nextOf((request.query as { next?: string }).next);
      return at.principal ? reply.redirect(next, 303) : loginPage(reply, at, next);
    },
  );

  scope.post(
    "/login",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        consumes: FORM,
        summary: "The form of the page: log in with name and password",
        body: Type.Object({
          csrf: Text(100),
          name: Text(100),
          password: Text(MAX_SECRET),
          next: Text(200),
        }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      at.requireOwnForm();
      const [name, next] = [field(request, "name").trim().toLowerCase(), nextOf(field(request, "next"))];
      try {
        passwordTries.require(name);
        addressTries.require(request.ip);
        // Counted before the password is looked at: tries that run at once count too.
        passwordTries.count(name);
        addressTries.count(request.ip);
        const answer = await accounts.logIn(name, field(request, "password"));
        if (!answer.ok) {
          if (answer.ownerId !== undefined)
            await recordLogin(audit, request, {
              action: "sessions.login",
              ownerId: answer.ownerId,
              actor: name,
              status: 401,
              code: "LOGIN_REFUSED",
              detail: { by: "password" },
            });
          throw new FarloomError("LOGIN_REFUSED");
        }
        passwordTries.forget(name);
        return await enter(request, reply, { at, account: answer, by: "password", next });
      } catch (error) {
        if (!(error instanceof FarloomError)) throw error;
        if (error.retryAfterMs !== undefined)
          reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
        request.problemCode = error.code;
        return loginPage(reply, at, next, error);
      }
    },
  );

  scope.get(
    "/login/oidc/:provider",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "Go to a provider to log in",
        params: Type.Object({ provider: Type.String({ maxLength: 32 }) }),
        querystring: Type.Object({ next: Text(200) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      const { provider } = request.params as { provider: string };
      const next = nextOf((request.query as { next?: string }).next);
      const { location, flow } = await oidc.begin(provider, redirectUri(at, provider), next);
      at.addCookie(setCookie("flow", at.place, flow, FLOW_LIFE_S));
      return reply.redirect(location, 303);
    },
  );

  scope.get(
    "/login/oidc/:provider/callback",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "Come back from a provider",
        params: Type.Object({ provider: Type.String({ maxLength: 32 }) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      const { provider } = request.params as { provider: string };
      at.addCookie(setCookie("flow", at.place));
      try {
        const url = new URL(request.url, at.place.origin);
        const { claims, next } = await oidc.finish(provider, url, at.cookie("flow"));
        const account = await accounts.ofExternal(claims);
        const by = `oidc ${provider}`;
        if (account.isNew)
          await recordLogin(audit, request, {
            action: "accounts.create",
            ownerId: account.ownerId,
            actor: account.name,
            target: account.name,
            detail: { by, issuer: claims.issuer, subject: claims.subject, admin: account.isAdmin },
          });
        return await enter(request, reply, { at, account, by, next });
      } catch (error) {
        if (!(error instanceof FarloomError)) throw error;
        request.problemCode = error.code;
        return loginPage(reply, at, "/account", error);
      }
    },
  );

  const setupPage = (reply: FastifyReply, at: Visit, error?: unknown) => {
    const status = error instanceof FarloomError ? error.status : 200;
    const body = html`${refusal(error)}<p>With the one-time token that an administrator gave you, or that the service
showed at its start or put into its state folder (first-admin-token).</p>
<form method="post" action="/setup" autocomplete="off">${at.token()}
<label for="token">One-time token</label><input id="token" name="token" required>
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required maxlength="63">
<label for="password">New password, at least ${MIN_PASSWORD_CHARS} characters</label>
<input id="password" name="password" type="password" autocomplete="new-password" required>
<button class="main">Set password</button></form>`;
    return sendPage(reply, "Set up an account", body, status);
  };

  scope.get(
    "/setup",
    {
      config: { policy: { public: true } },
      schema: { tags, summary: "A page: set the password of an account, with a one-time token" },
    },
    async (request, reply) => setupPage(reply, await visit(request, reply)),
  );

  scope.post(
    "/setup",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        consumes: FORM,
        summary: "The form of the page: set a password",
        body: Type.Object({ csrf: Text(100), token: Text(100), name: Text(100), password: Text(MAX_SECRET) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      at.requireOwnForm();
      try {
        addressTries.require(request.ip);
        addressTries.count(request.ip);
        const name = field(request, "name").trim().toLowerCase();
        const account = await accounts.redeemLink(
          field(request, "token").trim(),
          name,
          field(request, "password"),
        );
        identity.changed();
        await recordLogin(audit, request, {
          action: account.isNew ? "accounts.create" : "accounts.set-password",
          ownerId: account.ownerId,
          actor: account.name,
          target: account.name,
          detail: { admin: account.isAdmin },
        });
        return await enter(request, reply, { at, account, by: "one-time token", next: "/account" });
      } catch (error) {
        if (!(error instanceof FarloomError)) throw error;
        if (error.retryAfterMs !== undefined)
          reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
        request.problemCode = error.code;
        return setupPage(reply, at, error);
      }
    },
  );

  scope.get(
    "/account",
    {
      config: { policy: { public: true } },
      schema: { tags, summary: "A page: who you are, and your logins" },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      if (!at.principal) return reply.redirect("/login", 303);
      const { ownerId, ownerName, keyId } = at.principal;
      const rows = (await identity.sessions.list(ownerId)).map((session): Html => {
        const here = session.id === keyId ? " (this one)" : "";
        return html`<dt>${session.client}${here}</dt><dd>from ${session.origin}, since ${session.createdAt.toISOString().slice(0, 16)}Z</dd>`;
      });
      const body = html`<p>You are logged in as <strong>${ownerName}</strong>.</p>
<form method="post" action="/logout">${at.token()}<button>Log out</button></form>
<h2>Your logins</h2><dl>${rows}</dl>
<p class="note">farloom sessions revoke ID ends one of them.</p>`;
      return sendPage(reply, "Your account", body);
    },
  );

  scope.post(
    "/logout",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        consumes: FORM,
        summary: "The form of the page: log out",
        body: Type.Object({ csrf: Text(100) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      at.requireOwnForm();
      if (at.principal && (await identity.sessions.revoke(at.principal.ownerId, at.principal.keyId))) {
        identity.changed();
        await recordLogin(audit, request, {
          action: "sessions.logout",
          ownerId: at.principal.ownerId,
          actor: at.principal.ownerName,
          credential: at.principal.keyId,
          target: at.principal.keyId,
        });
      }
      at.addCookie(setCookie("session", at.place));
      return reply.redirect("/login", 303);
    },
  );
}

/** What the provider has to know as ours. */
function redirectUri(at: Visit, provider: string): string {
  return `${at.place.origin}/login/oidc/${provider}/callback`;
}
