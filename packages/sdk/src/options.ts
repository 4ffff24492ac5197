/**
 * Settings of a client, parsed once: option, then environment, then the configuration file that
 * `farloom login` and `farloom dev` write, then an error that names what to set.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { type CodecName, FarloomError, type SignKey } from "@farloom/protocol";
import { type Credential, LoginCredential, type StoredLogin } from "./login.js";
import { loadSignKey } from "./signing.js";

export interface FarloomOptions {
  /** Where the service is, e.g. `http://127.0.0.1:7400`. Default: FARLOOM_URL, then the configuration file. */
  readonly url?: string;
  /** An API key. Default: FARLOOM_API_KEY, then the configuration file. */
  readonly apiKey?: string;
  /** Where calls run that name no endpoint. Default: FARLOOM_ENDPOINT, then the configuration file. */
  readonly endpoint?: string;
  /** How arguments travel. `json` (the default) crosses all languages; `msgpack` also carries bytes. */
  readonly codec?: Exclude<CodecName, "pickle">;
  /**
   * A private key, or its file by path or name: what is registered and what is called is signed with it (PROTOCOL.md P37).
   * Default: FARLOOM_SIGN_KEY; without one nothing is signed.
   */
  readonly signKey?: string | SignKey;
  /** How long a first connection is tried before waiting calls fail. Default: 20,000. */
  readonly connectForMs?: number;
  /** How long a broken connection is tried again before waiting calls fail. Default: 600,000. */
  readonly reconnectForMs?: number;
  /** How often a REST request is tried while the service says it may work later. Default: 6. */
  readonly requestAttempts?: number;
}

export interface ResolvedOptions {
  readonly url: string;
  /** Empty where a login is used instead. */
  readonly apiKey: string;
  /** Of `farloom login`; undefined where there is an API key. */
  readonly login: Credential | undefined;
  readonly endpoint: string | undefined;
  readonly codec: Exclude<CodecName, "pickle">;
  readonly signKey: SignKey | undefined;
  readonly connectForMs: number;
  readonly reconnectForMs: number;
  readonly requestAttempts: number;
}

/** What the configuration file holds. */
export interface ConfigFile {
  url?: string;
  apiKey?: string;
  endpoint?: string;
  login?: StoredLogin;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** FARLOOM_CONFIG, or `farloom/config.json` in the user's configuration directory. */
export function configPath(env: Environment = process.env): string {
  return (
    env.FARLOOM_CONFIG || join(env.XDG_CONFIG_HOME || join(homedir(), ".config"), "farloom", "config.json")
  );
}

/** The configuration file's content; empty where there is none. */
export function readConfigFile(path = configPath()): ConfigFile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
  try {
    const { url, apiKey, endpoint, login } = JSON.parse(text) as Record<string, unknown>;
    return {
      ...(typeof url === "string" && { url }),
      ...(typeof apiKey === "string" && { apiKey }),
      ...(typeof endpoint === "string" && { endpoint }),
      ...(isLogin(login) && { login }),
    };
  } catch (error) {
    throw new FarloomError(
      "REQUEST_INVALID",
      { detail: `${path} is not JSON; write it anew with 'farloom login'` },
      { cause: error },
    );
  }
}

/** Options with everything filled in. */
export function resolveOptions(options: FarloomOptions, env: Environment = process.env): ResolvedOptions {
  const givenUrl = options.url ?? (env.FARLOOM_URL || undefined);
  const givenKey = options.apiKey ?? (env.FARLOOM_API_KEY || undefined);
  const file = givenUrl && givenKey ? {} : readConfigFile(configPath(env));
  const url = givenUrl ?? file.url;
  if (url === undefined) {
    throw missing(
      "The service's address",
      "Set FARLOOM_URL, pass {url}, or start one here with 'farloom dev'",
    );
  }
  // A key or a login from the file belongs to the file's service: it is never sent anywhere else.
  const own = sameService(url, file.url) ? file : {};
  const login =
    givenKey === undefined && own.login !== undefined
      ? new LoginCredential(checkedUrl(url), configPath(env), readConfigFile)
      : undefined;
  const apiKey = login === undefined ? (givenKey ?? own.apiKey) : "";
  if (apiKey === undefined) {
    throw missing(`The API key for ${url}`, "Set FARLOOM_API_KEY, pass {apiKey}, or run 'farloom login'");
  }
  const signKey = options.signKey ?? (env.FARLOOM_SIGN_KEY || undefined);
  const fileEndpoint = sameService(url, file.url) ? file.endpoint : undefined;
  return Object.freeze({
    url: checkedUrl(url),
    apiKey,
    login,
    endpoint: options.endpoint ?? (env.FARLOOM_ENDPOINT || undefined) ?? fileEndpoint,
    codec: options.codec ?? "json",
    signKey: typeof signKey === "string" ? loadSignKey(signKey, undefined, env) : signKey,
    connectForMs: options.connectForMs ?? 20_000,
    reconnectForMs: options.reconnectForMs ?? 600_000,
    requestAttempts: Math.max(1, options.requestAttempts ?? 6),
  });
}

function isLogin(value: unknown): value is StoredLogin {
  if (typeof value !== "object" || value === null) return false;
  const { accessToken, refreshToken, expiresAtMs, nonce } = value as Record<string, unknown>;
  return (
    typeof accessToken === "string" &&
    typeof refreshToken === "string" &&
    typeof expiresAtMs === "number" &&
    (nonce === undefined || typeof nonce === "string")
  );
}

function sameService(a: string, b: string | undefined): boolean {
  return b !== undefined && a.replace(/\/+$/, "") === b.replace(/\/+$/, "");
}

function checkedUrl(text: string): string {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {
    url = undefined;
  }
  if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new FarloomError("REQUEST_INVALID", {
      detail: `"${text}" is no address of a service; it begins with http:// or https://`,
    });
  }
  return text.replace(/\/+$/, "");
}

function missing(what: string, cure: string): FarloomError {
  return new FarloomError("SETTING_MISSING", { what, cure });
}
