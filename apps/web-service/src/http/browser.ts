/**
 * What a browser must show beside its cookie. A browser sends a cookie whoever makes it ask, so:
 *
 *   1. What changes something must come from a page of ours: its Origin is exactly ours, and it brings the page's token,
 *      which only a page that was given to this cookie's holder contains.
 *   2. Over https the cookie's name begins with `__Host-`: browsers take it from this very host alone, Secure and for every
 *      path. Plain http is for this machine alone, where the cookie is called `farloom-loopback`; else nobody logs in.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { FarloomError } from "@farloom/protocol";

/** Where the page's token stands in requests that are no forms. */
export const CSRF_HEADER = "x-farloom-csrf";

export interface BrowserPlace {
  /** What pages of ours have as their origin. */
  readonly origin: string;
  readonly isSecure: boolean;
}

const NAMES = {
  session: { secure: "__Host-farloom", loopback: "farloom-loopback" },
  /** Before there is a login: what the login form's token is made from. */
  visitor: { secure: "__Host-farloom-visitor", loopback: "farloom-loopback-visitor" },
  /** While somebody is at a provider. */
  flow: { secure: "__Host-farloom-flow", loopback: "farloom-loopback-flow" },
} as const;
export type CookieKind = keyof typeof NAMES;

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

/** Where this request's pages are. @throws FarloomError LOGIN_INSECURE */
export function placeOf(publicUrl: string | undefined, host: string | undefined): BrowserPlace {
  if (publicUrl !== undefined) {
    const { origin, protocol, hostname } = new URL(publicUrl);
    if (protocol === "https:") return { origin, isSecure: true };
    if (LOOPBACK.test(hostname)) return { origin, isSecure: false };
    throw new FarloomError("LOGIN_INSECURE", { detail: "FARLOOM_PUBLIC_URL is a plain http address" });
  }
  // A name that is not this machine's may be anybody's who made it lead here.
  if (host !== undefined && URL.canParse(`http://${host}`)) {
    const { origin, hostname } = new URL(`http://${host}`);
    if (LOOPBACK.test(hostname)) return { origin, isSecure: false };
  }
  throw new FarloomError("LOGIN_INSECURE", {
    detail: "this address is plain http; set FARLOOM_PUBLIC_URL to the https address of the proxy",
  });
}

export function cookieName(kind: CookieKind, isSecure: boolean): string {
  return NAMES[kind][isSecure ? "secure" : "loopback"];
}

/** A Set-Cookie; without a value, one that removes it. */
export function setCookie(kind: CookieKind, place: BrowserPlace, value?: string, maxAgeS?: number): string {
  const parts = [`${cookieName(kind, place.isSecure)}=${value ?? ""}`, "Path=/", "HttpOnly", "SameSite=Lax"];
  if (place.isSecure) parts.push("Secure");
  if (value === undefined) parts.push("Max-Age=0");
  else if (maxAgeS !== undefined) parts.push(`Max-Age=${maxAgeS}`);
  return parts.join("; ");
}

/** One cookie of a request. One that comes twice is none: somebody else may have set the second. */
export function readCookie(header: string | undefined, name: string): string | undefined {
  if (header === undefined || header.length > 16_384) return undefined;
  const values = header
    .split(";")
    .map((pair) => pair.trim())
    .filter((pair) => pair.startsWith(`${name}=`))
    .map((pair) => pair.slice(name.length + 1));
  return values.length === 1 && values[0] !== "" ? values[0] : undefined;
}

/** How the value of every session cookie begins. */
const SESSION_PREFIX = "fls_";

/**
 * The session cookie of a request, by the name that it has here: under the other one it is somebody else's. Another
 * credential in its place is none: only a login's is asked for the page's token (1).
 */
export function sessionCookie(
  { cookie }: IncomingHttpHeaders,
  publicUrl: string | undefined,
): string | undefined {
  if (cookie === undefined) return undefined;
  const value = readCookie(cookie, cookieName("session", publicUrl?.startsWith("https:") === true));
  return value?.startsWith(SESSION_PREFIX) ? value : undefined;
}

/** What a request shows as who it is from: its Authorization, or a browser's cookie as if it were one. */
export function authorizationOf(
  headers: IncomingHttpHeaders,
  publicUrl: string | undefined,
): string | undefined {
  if (headers.authorization !== undefined || headers.cookie === undefined) return headers.authorization;
  const cookie = sessionCookie(headers, publicUrl);
  return cookie === undefined ? undefined : `Bearer ${cookie}`;
}

export function newVisitor(): string {
  return randomBytes(32).toString("base64url");
}

/** A page's token: it follows from the cookie, which no other site can read (1). */
export function csrfToken(cookieValue: string): string {
  return createHash("sha256").update(`farloom-csrf\n${cookieValue}`).digest("base64url");
}

/** @throws FarloomError ORIGIN_REFUSED (1) */
export function requireOwnPage(
  place: BrowserPlace,
  headers: IncomingHttpHeaders,
  proof: { readonly cookie: string | undefined; readonly token: unknown },
): void {
  requireOrigin(place, headers);
  const { cookie, token } = proof;
  const expected = Buffer.from(cookie === undefined ? "" : csrfToken(cookie));
  const given = Buffer.from(typeof token === "string" ? token : "");
  if (cookie === undefined || given.length !== expected.length || !timingSafeEqual(given, expected))
    throw new FarloomError("ORIGIN_REFUSED", { detail: "the page's token is missing or another's" });
}

/** @throws FarloomError ORIGIN_REFUSED */
export function requireOrigin(place: BrowserPlace, { origin }: IncomingHttpHeaders): void {
  if (origin !== place.origin)
    throw new FarloomError("ORIGIN_REFUSED", { detail: "its Origin is another, or is missing" });
}
