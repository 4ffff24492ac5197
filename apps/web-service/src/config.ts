/**
 * The service's configuration, parsed once into a frozen value: option, then environment, then a default or an
 * error that names the variable. Nothing else in the service reads the environment.
 */
import { isIP } from "node:net";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { type OidcProvider, readOidcFile } from "./identity/oidc-config.js";
import { type WebhookSettings, webhookSettings } from "./webhooks/settings.js";

export const LOG_LEVELS = ["fatal", "error", "warn", "info", "debug", "trace", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Config {
  /** Address to listen on. FARLOOM_HOST; default 127.0.0.1: reachable from this machine only. */
  readonly host: string;
  /** TCP port; 0 takes a free one. FARLOOM_PORT; default 8722. */
  readonly port: number;
  /** How clients and agents reach the service, without a trailing slash. FARLOOM_PUBLIC_URL; undefined: the address listened on. */
  readonly publicUrl: string | undefined;
  /** PostgreSQL. DATABASE_URL; undefined: an embedded one in the state folder. */
  readonly databaseUrl: string | undefined;
  /**
   * The same database under the role for what one person reads of their own. FARLOOM_TENANT_DATABASE_URL; undefined: the
   * role of DATABASE_URL, and PostgreSQL keeps nobody apart. The embedded database has one of our making, whatever this says.
   */
  readonly tenantDatabaseUrl: string | undefined;
  /** Redis for background work. REDIS_URL; undefined: PostgreSQL does it. */
  readonly redisUrl: string | undefined;
  /** Payload files, signing key, embedded database. FARLOOM_STATE_DIR; default ~/.local/state/farloom. */
  readonly stateDir: string;
  /** Where objects lie. Undefined: in the state folder. */
  readonly s3: S3Settings | undefined;
  /** How long finished tasks and their results are kept. FARLOOM_RETENTION_DAYS; default 7. */
  readonly retentionDays: number;
  /**
   * How often tasks and outcomes are looked for whose hints between replicas were lost, in milliseconds; a replica that
   * is alone looks four times more rarely. FARLOOM_SWEEP_MS; default 15,000.
   */
  readonly sweepMs: number;
  /** Open tasks that one owner may have. FARLOOM_MAX_OPEN_TASKS_PER_OWNER; default 2,000,000. */
  readonly maxOpenTasksPerOwner: number;
  /** Open tasks that one endpoint may have. FARLOOM_MAX_OPEN_TASKS_PER_ENDPOINT; default 2,000,000. */
  readonly maxOpenTasksPerEndpoint: number;
  /** Links of clients and agents at once. FARLOOM_MAX_LINKS; default 20,000. */
  readonly maxLinks: number;
  /** Links that the clients and agents of one person have at once, at one replica. FARLOOM_MAX_LINKS_PER_OWNER; default 10,000. */
  readonly maxLinksPerOwner: number;
  /** Endpoints that one person may have. FARLOOM_MAX_ENDPOINTS_PER_OWNER; default 10,000. */
  readonly maxEndpointsPerOwner: number;
  /** MiB of payload files and objects that one person may have stored. FARLOOM_MAX_STORED_MB_PER_OWNER; default 10 TiB. */
  readonly maxStoredMbPerOwner: number;
  /** What webhooks may do. FARLOOM_WEBHOOKS=on and others (docs/webhooks.md); undefined: there are none. */
  readonly webhooks: WebhookSettings | undefined;
  /** Webhooks that one person may have. FARLOOM_MAX_WEBHOOKS_PER_OWNER; default 20. */
  readonly maxWebhooksPerOwner: number;
  /** FARLOOM_LOG_LEVEL; default info. */
  readonly logLevel: LogLevel;
  /** The Ed25519 key of tokens, PKCS #8 PEM, shared by all replicas. FARLOOM_SIGNING_KEY_FILE; undefined: made in the state folder. */
  readonly signingKeyFile: string | undefined;
  /** The keys that seal people's secrets (secrets/keys.ts), shared by all replicas. FARLOOM_SECRETS_KEY_FILE; undefined: made in the state folder. */
  readonly secretsKeyFile: string | undefined;
  /** Where people come from who log in by OpenID Connect. FARLOOM_OIDC_FILE, a JSON file (docs/accounts.md); default: from nowhere. */
  readonly oidcProviders: readonly OidcProvider[];
  /**
   * Whose X-Forwarded-For is believed, as addresses or networks with commas. FARLOOM_TRUSTED_PROXIES; default: nobody's, and
   * the address of a caller is that of the connection.
   */
  readonly trustedProxies: readonly string[];
  /**
   * Names besides its own that the service is called by, as `host` (on any port) or `host:port`, with commas: of a proxy that
   * names another than the public URL's. FARLOOM_ALLOWED_HOSTS; default: none (http/own-hosts.ts has which are its own).
   */
  readonly allowedHosts: readonly string[];
  /** Where the first API key is written at start, if it is missing or not valid here. FARLOOM_BOOTSTRAP_KEY_FILE; undefined: none is made. */
  readonly bootstrapKeyFile: string | undefined;
  /** Whom that key belongs to. FARLOOM_BOOTSTRAP_OWNER; default "me". */
  readonly bootstrapOwner: string;
  /** Requests per minute for one API key or, without one, for one address. FARLOOM_RATE_LIMIT_PER_MINUTE; default 60,000. */
  readonly rateLimitPerMinute: number;
  /** Requests per minute of one person, over all keys. FARLOOM_PERSON_RATE_LIMIT_PER_MINUTE; default 240,000. */
  readonly personRateLimitPerMinute: number;
  /** Failed authentications per minute from one address before further unknown credentials get 429. FARLOOM_FAILED_AUTH_PER_MINUTE; default 60. */
  readonly failedAuthPerMinute: number;
}

/** Objects in a bucket of S3, or of any server that speaks its language. */
export interface S3Settings {
  /** FARLOOM_S3_BUCKET: setting it is what chooses S3. The bucket must exist. */
  readonly bucket: string;
  /** FARLOOM_S3_ENDPOINT, e.g. https://minio.example:9000; undefined: AWS. */
  readonly endpoint: string | undefined;
  /** FARLOOM_S3_REGION; default us-east-1. */
  readonly region: string;
  /** What the names of all that we store begin with. FARLOOM_S3_PREFIX; default "farloom/". */
  readonly prefix: string;
  /** FARLOOM_S3_ACCESS_KEY_ID and FARLOOM_S3_SECRET_ACCESS_KEY; undefined: what AWS's own SDK finds. */
  readonly accessKeyId: string | undefined;
  readonly secretAccessKey: string | undefined;
}

export type ConfigOptions = { readonly [K in keyof Config]?: Config[K] | undefined };
type Env = Readonly<Record<string, string | undefined>>;

const OPEN_TASKS = { fallback: 2_000_000, min: 1, max: 1_000_000_000 };
const MANY = { fallback: 10_000, min: 1, max: 1_000_000 };

/** A setting that cannot be used; the message names the variable and says what would be right. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** Options win over the environment. @throws ConfigError */
export function resolveConfig(options: ConfigOptions = {}, env: Env = process.env): Config {
  const text = (option: string | undefined, variable: string): string | undefined => {
    const value = option ?? env[variable];
    return value === undefined || value === "" ? undefined : value;
  };
  const int = (
    option: number | undefined,
    variable: string,
    range: { fallback: number; min: number; max: number },
  ): number => {
    const raw = option ?? text(undefined, variable) ?? range.fallback;
    const value = typeof raw === "string" && !/^\d+$/.test(raw) ? Number.NaN : Number(raw);
    if (!Number.isSafeInteger(value) || value < range.min || value > range.max) {
      throw new ConfigError(
        `${variable} is ${JSON.stringify(raw)}, not a whole number from ${range.min} to ${range.max}`,
      );
    }
    return value;
  };

  return Object.freeze({
    host: text(options.host, "FARLOOM_HOST") ?? "127.0.0.1",
    port: int(options.port, "FARLOOM_PORT", { fallback: 8722, min: 0, max: 65_535 }),
    publicUrl: url(text(options.publicUrl, "FARLOOM_PUBLIC_URL"), "FARLOOM_PUBLIC_URL", [
      "http:",
      "https:",
    ])?.replace(/\/+$/, ""),
    databaseUrl: url(text(options.databaseUrl, "DATABASE_URL"), "DATABASE_URL", ["postgres:", "postgresql:"]),
    tenantDatabaseUrl: url(
      text(options.tenantDatabaseUrl, "FARLOOM_TENANT_DATABASE_URL"),
      "FARLOOM_TENANT_DATABASE_URL",
      ["postgres:", "postgresql:"],
    ),
    redisUrl: url(text(options.redisUrl, "REDIS_URL"), "REDIS_URL", ["redis:", "rediss:"]),
    stateDir: resolve(text(options.stateDir, "FARLOOM_STATE_DIR") ?? defaultStateDir(env)),
    s3: options.s3 ?? s3Settings(text),
    retentionDays: int(options.retentionDays, "FARLOOM_RETENTION_DAYS", { fallback: 7, min: 1, max: 36_500 }),
    sweepMs: int(options.sweepMs, "FARLOOM_SWEEP_MS", { fallback: 15_000, min: 100, max: 3_600_000 }),
    maxOpenTasksPerOwner: int(options.maxOpenTasksPerOwner, "FARLOOM_MAX_OPEN_TASKS_PER_OWNER", OPEN_TASKS),
    maxOpenTasksPerEndpoint: int(
      options.maxOpenTasksPerEndpoint,
      "FARLOOM_MAX_OPEN_TASKS_PER_ENDPOINT",
      OPEN_TASKS,
    ),
    maxLinks: int(options.maxLinks, "FARLOOM_MAX_LINKS", { fallback: 20_000, min: 1, max: 1_000_000 }),
    maxLinksPerOwner: int(options.maxLinksPerOwner, "FARLOOM_MAX_LINKS_PER_OWNER", MANY),
    maxEndpointsPerOwner: int(options.maxEndpointsPerOwner, "FARLOOM_MAX_ENDPOINTS_PER_OWNER", MANY),
    maxStoredMbPerOwner: int(options.maxStoredMbPerOwner, "FARLOOM_MAX_STORED_MB_PER_OWNER", {
      fallback: 10 * 1024 * 1024,
      min: 1,
      max: 1 << 30,
    }),
    webhooks: options.webhooks ?? webhooks(env),
    maxWebhooksPerOwner: int(options.maxWebhooksPerOwner, "FARLOOM_MAX_WEBHOOKS_PER_OWNER", {
      fallback: 20,
      min: 1,
      max: 10_000,
    }),
    logLevel: logLevel(text(options.logLevel, "FARLOOM_LOG_LEVEL") ?? "info"),
    signingKeyFile: text(options.signingKeyFile, "FARLOOM_SIGNING_KEY_FILE"),
    secretsKeyFile: text(options.secretsKeyFile, "FARLOOM_SECRETS_KEY_FILE"),
    oidcProviders: options.oidcProviders ?? oidcProviders(text(undefined, "FARLOOM_OIDC_FILE")),
    trustedProxies:
      options.trustedProxies ??
      addresses(text(undefined, "FARLOOM_TRUSTED_PROXIES"), "FARLOOM_TRUSTED_PROXIES"),
    allowedHosts: options.allowedHosts ?? hostNames(text(undefined, "FARLOOM_ALLOWED_HOSTS")),
    bootstrapKeyFile: text(options.bootstrapKeyFile, "FARLOOM_BOOTSTRAP_KEY_FILE"),
    bootstrapOwner: ownerName(text(options.bootstrapOwner, "FARLOOM_BOOTSTRAP_OWNER") ?? "me"),
    rateLimitPerMinute: int(options.rateLimitPerMinute, "FARLOOM_RATE_LIMIT_PER_MINUTE", {
      fallback: 60_000,
      min: 1,
      max: 1e9,
    }),
    personRateLimitPerMinute: int(options.personRateLimitPerMinute, "FARLOOM_PERSON_RATE_LIMIT_PER_MINUTE", {
      fallback: 240_000,
      min: 1,
      max: 1e9,
    }),
    failedAuthPerMinute: int(options.failedAuthPerMinute, "FARLOOM_FAILED_AUTH_PER_MINUTE", {
      fallback: 60,
      min: 1,
      max: 1e9,
    }),
  });
}

function webhooks(env: Env): WebhookSettings | undefined {
  try {
    return webhookSettings(env);
  } catch (error) {
    throw new ConfigError((error as Error).message);
  }
}

function s3Settings(
  text: (option: undefined, variable: string) => string | undefined,
): S3Settings | undefined {
  const bucket = text(undefined, "FARLOOM_S3_BUCKET");
  const endpoint = url(text(undefined, "FARLOOM_S3_ENDPOINT"), "FARLOOM_S3_ENDPOINT", ["http:", "https:"]);
  const accessKeyId = text(undefined, "FARLOOM_S3_ACCESS_KEY_ID");
  const secretAccessKey = text(undefined, "FARLOOM_S3_SECRET_ACCESS_KEY");
  if ((accessKeyId === undefined) !== (secretAccessKey === undefined))
    throw new ConfigError(
      "FARLOOM_S3_ACCESS_KEY_ID and FARLOOM_S3_SECRET_ACCESS_KEY belong together: set both or none",
    );
  if (bucket === undefined) {
    if (endpoint === undefined && accessKeyId === undefined) return undefined;
    throw new ConfigError(
      "FARLOOM_S3_BUCKET is not set, but other variables of FARLOOM_S3_ are: which bucket?",
    );
  }
  return Object.freeze({
    bucket,
    endpoint,
    region: text(undefined, "FARLOOM_S3_REGION") ?? "us-east-1",
    prefix: text(undefined, "FARLOOM_S3_PREFIX") ?? "farloom/",
    accessKeyId,
    secretAccessKey,
  });
}

function oidcProviders(path: string | undefined): readonly OidcProvider[] {
  if (path === undefined) return [];
  try {
    return readOidcFile(path);
  } catch (error) {
    throw new ConfigError(`FARLOOM_OIDC_FILE: ${(error as Error).message}`);
  }
}

function addresses(value: string | undefined, variable: string): readonly string[] {
  const list = (value ?? "").split(",").map((item) => item.trim());
  const named = list.filter((item) => item !== "");
  for (const item of named) {
    const [address, bits, ...rest] = item.split("/");
    const size = isIP(address!) === 6 ? 128 : 32;
    const good =
      isIP(address!) !== 0 &&
      rest.length === 0 &&
      (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= size));
    if (!good)
      throw new ConfigError(`${variable} has ${JSON.stringify(item)}, which is no address or network`);
  }
  return named;
}

function hostNames(value: string | undefined): readonly string[] {
  const list = (value ?? "").split(",").map((item) => item.trim());
  const named = list.filter((item) => item !== "");
  for (const item of named) {
    // No wildcards: whoever can have a name below one of ours made would be let in.
    if (!/^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$/.test(item))
      throw new ConfigError(
        `FARLOOM_ALLOWED_HOSTS has ${JSON.stringify(item)}, which is no host or host:port`,
      );
  }
  return named;
}

function defaultStateDir(env: Env): string {
  return join(env.XDG_STATE_HOME || join(homedir(), ".local", "state"), "farloom");
}

function url(value: string | undefined, variable: string, protocols: readonly string[]): string | undefined {
  if (value === undefined) return undefined;
  const good = URL.canParse(value) && protocols.includes(new URL(value).protocol);
  // The value stays out of the message: such URLs carry passwords.
  if (!good)
    throw new ConfigError(
      `${variable} is not a URL that starts with ${protocols.map((p) => `${p}//`).join(" or ")}`,
    );
  return value;
}

function logLevel(value: string): LogLevel {
  if (!(LOG_LEVELS as readonly string[]).includes(value)) {
    throw new ConfigError(
      `FARLOOM_LOG_LEVEL is ${JSON.stringify(value)}, not one of ${LOG_LEVELS.join(", ")}`,
    );
  }
  return value as LogLevel;
}

function ownerName(value: string): string {
  if (!/^[a-z0-9][a-z0-9._-]{0,62}$/.test(value)) {
    throw new ConfigError(
      `FARLOOM_BOOTSTRAP_OWNER is ${JSON.stringify(value)}: lower-case letters, digits and . _ - are allowed, at most 63`,
    );
  }
  return value;
}
