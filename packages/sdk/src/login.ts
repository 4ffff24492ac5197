/**
 * A login of `farloom login`: an access token of ten minutes and a refresh token, in the configuration file. Programs that run
 * at the same time share it, in TypeScript and Python alike (python/src/farloom/_login.py keeps the same rules).
 *
 *   1. A refresh token is good once, so refreshing is for one at a time: whoever has made the lock file. It reads the file
 *      again first, as another may have refreshed meanwhile.
 *   2. Before a refresh token is shown, the nonce of the exchange is written beside it: where the answer gets lost, by the
 *      network or the death of this process, the next exchange repeats it and gets the same answer.
 *   3. The file is written whole or not at all, for its owner alone.
 */
import { randomBytes } from "node:crypto";
import { closeSync, mkdirSync, openSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { FarloomError } from "@farloom/protocol";
import { sleep } from "./link/backoff.js";
import type { ConfigFile } from "./options.js";
import { connectionErrorText, parseProblem } from "./problem.js";

/** What the configuration file holds of a login. */
export interface StoredLogin {
  readonly accessToken: string;
  readonly refreshToken: string;
  /** By this machine's clock. */
  readonly expiresAtMs: number;
  /** Of an exchange whose answer has not come (2). */
  readonly nonce?: string;
}

/** What is shown to the service. */
export interface Credential {
  /** What holds now; undefined where `get` has to be asked. */
  readonly current: string | undefined;
  get(): Promise<string>;
  /** The service says that the current one has expired. */
  expired(): void;
}

/** A token with less than this left is exchanged: a request takes time to arrive. */
const LEAST_LEFT_MS = 30_000;
/** A lock that is older was left by a process that died. */
const STALE_MS = 30_000;
const LOCK_WAIT_MS = 45_000;
const LOCK_LOOK_MS = 50;
const EXCHANGE_TIMEOUT_MS = 15_000;

export class LoginCredential implements Credential {
  readonly #url: string;
  readonly #path: string;
  readonly #read: (path: string) => ConfigFile;
  #login: StoredLogin;
  #pending: Promise<string> | undefined;

  /** Of the file `path`, which `read` reads. */
  constructor(url: string, path: string, read: (path: string) => ConfigFile) {
    this.#url = url;
    this.#path = path;
    this.#read = read;
    this.#login = read(path).login ?? { accessToken: "", refreshToken: "", expiresAtMs: 0 };
  }

  get current(): string | undefined {
    return isFresh(this.#login) ? this.#login.accessToken : undefined;
  }

  /** @throws FarloomError REFRESH_INVALID where the login has ended, SERVICE_UNREACHABLE */
  async get(): Promise<string> {
    if (isFresh(this.#login)) return this.#login.accessToken;
    this.#pending ??= this.#refresh().finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  }

  expired(): void {
    this.#login = { ...this.#login, expiresAtMs: 0 };
  }

  async #refresh(): Promise<string> {
    const unlock = await lock(`${this.#path}.lock`);
    try {
      const config = this.#read(this.#path);
      const stored = config.login;
      if (stored === undefined) throw new FarloomError("REFRESH_INVALID");
      // Another process was first (1).
      if (stored.accessToken !== this.#login.accessToken && isFresh(stored)) {
        this.#login = stored;
        return stored.accessToken;
      }
      const nonce = stored.nonce ?? randomBytes(32).toString("base64url");
      if (stored.nonce === undefined) writeConfigFile(this.#path, { ...config, login: { ...stored, nonce } });
      this.#login = await exchange(this.#url, { ...stored, nonce });
      writeConfigFile(this.#path, { ...config, login: this.#login });
      return this.#login.accessToken;
    } finally {
      unlock();
    }
  }
}

/** Writes the configuration file (3). */
export function writeConfigFile(path: string, config: ConfigFile): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const aside = `${path}.${process.pid}.new`;
  writeFileSync(aside, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(aside, path);
}

/** What the token endpoint answers, as it is stored. `askedAtMs` is from before the request. */
export function toStoredLogin(answer: unknown, askedAtMs: number): StoredLogin {
  const { access_token, refresh_token, expires_in } = answer as Record<string, unknown>;
  if (typeof access_token !== "string" || typeof refresh_token !== "string" || typeof expires_in !== "number")
    throw new FarloomError("REQUEST_INVALID", { detail: "the service's answer holds no tokens" });
  return {
    accessToken: access_token,
    refreshToken: refresh_token,
    expiresAtMs: askedAtMs + expires_in * 1000,
  };
}

async function exchange(
  url: string,
  login: { readonly refreshToken: string; readonly nonce: string },
): Promise<StoredLogin> {
  const askedAtMs = Date.now();
  const response = await fetch(`${url}/v1/oauth/token`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      grant_type: "refresh_token",
      refresh_token: login.refreshToken,
      nonce: login.nonce,
    }),
    signal: AbortSignal.timeout(EXCHANGE_TIMEOUT_MS),
    redirect: "error",
  }).catch((cause: Error) => {
    const detail = connectionErrorText((cause.cause as Error | undefined) ?? cause);
    throw new FarloomError("SERVICE_UNREACHABLE", { url, detail }, { cause });
  });
  const body = Buffer.from(await response.arrayBuffer());
  if (!response.ok)
    throw parseProblem(response.status, body, response.headers.get("retry-after") ?? undefined);
  return toStoredLogin(JSON.parse(body.toString("utf8")), askedAtMs);
}

function isFresh({ expiresAtMs }: StoredLogin): boolean {
  return expiresAtMs - Date.now() > LEAST_LEFT_MS;
}

/** Takes the lock file (1): nothing tells when another process lets go of it, so it is looked at. */
async function lock(path: string): Promise<() => void> {
  const untilMs = performance.now() + LOCK_WAIT_MS;
  for (;;) {
    try {
      closeSync(openSync(path, "wx", 0o600));
      return () => rmSync(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const madeAtMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (madeAtMs !== undefined && Date.now() - madeAtMs > STALE_MS) rmSync(path, { force: true });
    else if (performance.now() > untilMs)
      throw new FarloomError("REQUEST_INVALID", { detail: `${path} is held by another process; remove it` });
    else await sleep(LOCK_LOOK_MS);
  }
}
