/**
 * Which OpenID providers people may come from, and who of them may come in: a JSON file named by FARLOOM_OIDC_FILE, as it
 * holds client secrets and there may be several. Who is not named comes in nowhere: a provider without `allow` is refused.
 */
import { readFileSync, statSync } from "node:fs";

/** What ID tokens may be signed with; HMAC and `none` never. */
export const OIDC_ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"] as const;
export type OidcAlgorithm = (typeof OIDC_ALGORITHMS)[number];

export interface OidcProvider {
  /** In addresses: /login/oidc/{id}. */
  readonly id: string;
  /** On the button. */
  readonly label: string;
  readonly issuer: string;
  readonly clientId: string;
  /** Undefined: a public client, by PKCE alone. */
  readonly clientSecret: string | undefined;
  readonly scopes: string;
  /** The one algorithm of its ID tokens. */
  readonly algorithm: OidcAlgorithm;
  readonly allow: {
    /** Everybody whom the provider knows. */
    readonly anyone: boolean;
    /** Those with a verified e-mail address of these domains. */
    readonly domains: readonly string[];
    /** These. */
    readonly subjects: readonly string[];
  };
  /** Subjects who are administrators here. */
  readonly admins: readonly string[];
}

type Raw = Record<string, unknown>;

/** @throws Error in words that name the provider and the field; never a secret. */
export function readOidcFile(path: string): readonly OidcProvider[] {
  if ((statSync(path).mode & 0o077) !== 0)
    throw new Error(`${path} holds client secrets, and others may read it: chmod 600`);
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    throw new Error(`${path} is not JSON`);
  }
  return parseOidcProviders(raw, path);
}

export function parseOidcProviders(raw: unknown, path = "FARLOOM_OIDC_FILE"): readonly OidcProvider[] {
  if (!Array.isArray(raw) || raw.length === 0 || raw.length > 20)
    throw new Error(`${path} is not a list of 1 to 20 providers`);
  const providers = raw.map((entry, at) => parse(entry as Raw, `${path}[${at}]`));
  if (new Set(providers.map(({ id }) => id)).size < providers.length)
    throw new Error(`${path} has two providers of the same id`);
  return providers;
}

function parse(entry: Raw, at: string): OidcProvider {
  if (typeof entry !== "object" || entry === null) throw new Error(`${at} is not an object`);
  only(entry, at, [
    "id",
    "label",
    "issuer",
    "clientId",
    "clientSecret",
    "scopes",
    "algorithm",
    "allow",
    "admins",
  ]);
  const id = text(entry, "id", at, /^[a-z0-9-]{1,32}$/);
  const issuer = text(entry, "issuer", at, /^https?:\/\/\S{1,500}$/);
  if (!isSafe(issuer)) throw new Error(`${at}.issuer is not an https address`);
  const algorithm = entry.algorithm === undefined ? "RS256" : text(entry, "algorithm", at, /^\w{5}$/);
  if (!(OIDC_ALGORITHMS as readonly string[]).includes(algorithm))
    throw new Error(`${at}.algorithm is not one of ${OIDC_ALGORITHMS.join(", ")}`);
  const allow = (entry.allow ?? {}) as Raw;
  only(allow, `${at}.allow`, ["anyone", "domains", "subjects"]);
  const domains = texts(allow, "domains", `${at}.allow`).map((domain) => domain.toLowerCase());
  const subjects = texts(allow, "subjects", `${at}.allow`);
  const anyone = allow.anyone === true;
  if (!anyone && domains.length === 0 && subjects.length === 0)
    throw new Error(`${at}.allow lets nobody in: name domains or subjects, or say {"anyone": true}`);
  return {
    id,
    label: entry.label === undefined ? id : text(entry, "label", at, /^.{1,60}$/),
    issuer,
    clientId: text(entry, "clientId", at, /^\S{1,300}$/),
    clientSecret:
      entry.clientSecret === undefined ? undefined : text(entry, "clientSecret", at, /^\S{1,500}$/),
    scopes:
      entry.scopes === undefined ? "openid email profile" : text(entry, "scopes", at, /^openid\b.{0,300}$/),
    algorithm: algorithm as OidcAlgorithm,
    allow: { anyone, domains, subjects },
    admins: texts(entry, "admins", at),
  };
}

/** Whether what passes between us and it is nobody else's to read. */
function isSafe(issuer: string): boolean {
  const { protocol, hostname } = new URL(issuer);
  return protocol === "https:" || ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
}

function only(entry: Raw, at: string, fields: readonly string[]): void {
  const unknown = Object.keys(entry).find((field) => !fields.includes(field));
  if (unknown !== undefined) throw new Error(`${at} has the unknown field ${unknown}`);
}

function text(entry: Raw, field: string, at: string, form: RegExp): string {
  const value = entry[field];
  if (typeof value !== "string" || !form.test(value))
    throw new Error(`${at}.${field} is missing or not right`);
  return value;
}

function texts(entry: Raw, field: string, at: string): string[] {
  const value = entry[field] ?? [];
  if (!Array.isArray(value) || value.some((item) => typeof item !== "string" || item === ""))
    throw new Error(`${at}.${field} is not a list of texts`);
  return value as string[];
}
