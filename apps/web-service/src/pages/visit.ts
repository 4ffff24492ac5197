/** One request to a page: where the page is, who looks at it, and the token that its forms carry. */
import { FarloomError } from "@farloom/protocol";
import type { FastifyReply, FastifyRequest } from "fastify";
import {
  type BrowserPlace,
  cookieName,
  csrfToken,
  newVisitor,
  placeOf,
  readCookie,
  requireOwnPage,
  sessionCookie,
  setCookie,
} from "../http/browser.js";
import type { Identity } from "../identity/identity.js";
import type { Principal } from "../identity/principal.js";
import { type Html, html } from "./html.js";

/** Pages that one may be sent to after a login; nothing else, or a link could lead anywhere. */
export const NEXT = /^\/(account|device(\?user_code=[A-Za-z-]{1,20})?)$/;

export class Visit {
  readonly place: BrowserPlace;
  /** Who is logged in. */
  readonly principal: Principal | undefined;
  readonly #request: FastifyRequest;
  readonly #reply: FastifyReply;
  /** What the forms' token is made from: the login's cookie, or a visitor's. */
  #secret: string | undefined;

  private constructor(
    request: FastifyRequest,
    reply: FastifyReply,
    known: { place: BrowserPlace; principal: Principal | undefined; secret: string | undefined },
  ) {
    this.#request = request;
    this.#reply = reply;
    this.place = known.place;
    this.principal = known.principal;
    this.#secret = known.secret;
  }

  /** @throws FarloomError LOGIN_INSECURE */
  static async of(
    { identity, publicUrl }: { identity: Identity; publicUrl: string | undefined },
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<Visit> {
    const { headers } = request;
    const place = placeOf(publicUrl, headers.host);
    const session = sessionCookie(headers, publicUrl);
    const principal =
      session === undefined
        ? undefined
        : await identity.authenticate(`Bearer ${session}`).catch((error: FarloomError) => {
            if (error.status === 401) return undefined;
            throw error;
          });
    const secret =
      principal === undefined ? readCookie(headers.cookie, cookieName("visitor", place.isSecure)) : session;
    return new Visit(request, reply, { place, principal, secret });
  }

  /** The hidden field of every form; a visitor without a cookie gets one. */
  token(): Html {
    if (this.#secret === undefined) {
      this.#secret = newVisitor();
      this.addCookie(setCookie("visitor", this.place, this.#secret));
    }
    return html`<input type="hidden" name="csrf" value="${csrfToken(this.#secret)}">`;
  }

  /** Of a form that was sent. @throws FarloomError ORIGIN_REFUSED */
  requireOwnForm(): void {
    const { csrf } = (this.#request.body ?? {}) as Record<string, string>;
    requireOwnPage(this.place, this.#request.headers, { cookie: this.#secret, token: csrf });
  }

  cookie(kind: "flow"): string | undefined {
    return readCookie(this.#request.headers.cookie, cookieName(kind, this.place.isSecure));
  }

  addCookie(cookie: string): void {
    const before = this.#reply.getHeader("set-cookie");
    this.#reply.header("set-cookie", before === undefined ? [cookie] : [before, cookie].flat());
  }
}

/** A field of a form, as text. */
export function field(request: FastifyRequest, name: string): string {
  const value = ((request.body ?? {}) as Record<string, unknown>)[name];
  return typeof value === "string" ? value : "";
}

/** Where to go after a login. */
export function nextOf(text: unknown): string {
  return typeof text === "string" && NEXT.test(text) ? text : "/account";
}

/** What went wrong, as people are told it on a page. */
export function refusal(error: unknown): Html | undefined {
  if (!(error instanceof FarloomError)) return undefined;
  return html`<p class="error" role="alert">${error.message}</p>`;
}
