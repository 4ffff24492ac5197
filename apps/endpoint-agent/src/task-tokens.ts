/**
 * What running tasks are given for themselves: where a function wants to submit tasks itself, the task's own token (P28);
 * where it names secrets, these (P40). The agent asks the service, with its own credential, and hands the answer down. Both
 * are in memory alone, and only on their way: not in the journal, not in a log.
 *
 * Bound: one request for each running task at a time, as the node manager passes on no more.
 */
import { type AskFrame, FarloomError, type GrantFrame, keyAt, keyToUuid } from "@farloom/protocol";
import type { Logger } from "pino";
import { HttpFailure, httpJson, sleep } from "./http.js";

/** A task may run before its row is committed: then the service does not know it for some milliseconds. */
const TRIES = 6;
const FIRST_WAIT_MS = 50;
/** A function that asks for its token waits for 20 s. */
const TOKEN_PATIENCE_MS = 15_000;
/** A function cannot begin without its secrets: a service that restarts is waited for. */
const SECRETS_PATIENCE_MS = 120_000;
const MAX_WAIT_MS = 2_000;
/** As many secrets as a function names, of the largest size, as JSON writes them. */
const MAX_SECRETS_BYTES = 8 * 1024 * 1024;

export interface TaskTokensOptions {
  readonly serviceUrl: string;
  /** The agent's session token. */
  readonly token: (signal: AbortSignal) => Promise<string>;
  readonly log: Logger;
}

interface Issued {
  readonly token: string;
  readonly expiresInMs: number;
  readonly endpoint: string;
  readonly group: string;
}

export class TaskTokens {
  readonly #options: TaskTokensOptions;
  readonly #stop = new AbortController();

  constructor(options: TaskTokensOptions) {
    this.#options = options;
  }

  /** The answer for the worker. Never rejects: what the service says no with is an answer too. */
  async ask({ ids, secrets }: AskFrame): Promise<GrantFrame> {
    const { log } = this.#options;
    const task = keyToUuid(keyAt(ids));
    const until = performance.now() + (secrets ? SECRETS_PATIENCE_MS : TOKEN_PATIENCE_MS);
    for (let attempt = 1; ; attempt++) {
      try {
        return { t: "grant", ids, ...(secrets ? await this.#secrets(task) : await this.#token(task)) };
      } catch (error) {
        const { code, status, message } = toFailure(error);
        const isAway = status === 0 || status === 429 || (status >= 500 && code !== "SECRET_UNREADABLE");
        const mayPass = (status === 404 && attempt < TRIES) || (isAway && performance.now() < until);
        if (!mayPass || this.#stop.signal.aborted) {
          log.info({ task, code }, secrets ? "a task got no secrets" : "a task got no token of its own");
          return { t: "grant", ids, code, message };
        }
      }
      await sleep(Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** (attempt - 1)), this.#stop.signal);
    }
  }

  close(): void {
    this.#stop.abort();
  }

  async #token(task: string): Promise<Issued & { url: string }> {
    const { token, expiresInMs, endpoint, group } = await this.#post<Issued>(`/v1/tasks/${task}/token`);
    return { url: this.#options.serviceUrl, token, expiresInMs, endpoint, group };
  }

  async #secrets(task: string): Promise<{ secrets: Record<string, string> }> {
    const path = `/v1/tasks/${task}/secrets`;
    const { secrets } = await this.#post<{ secrets: Record<string, string> }>(path, MAX_SECRETS_BYTES);
    return { secrets };
  }

  async #post<T>(path: string, mostBytes?: number): Promise<T> {
    const { signal } = this.#stop;
    const authorization = `Bearer ${await this.#options.token(signal)}`;
    return httpJson<T>(new URL(path, this.#options.serviceUrl), {
      method: "POST",
      json: {},
      headers: { authorization },
      signal,
      ...(mostBytes !== undefined && { mostBytes }),
    });
  }
}

function toFailure(error: unknown): { code: string; status: number; message: string } {
  if (error instanceof HttpFailure) return error;
  return new FarloomError("INTERNAL", { reference: "agent" }, { cause: error });
}
