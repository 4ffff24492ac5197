/**
 * Tokens of running tasks: where a function wants to submit tasks itself, the agent asks the service for the task's own
 * token, with its own credential, and hands the answer down (P28). A token is in memory alone, and only on its way: not
 * in the journal, not in a log.
 *
 * Bound: one request for each running task at a time, as the node manager passes on no more.
 */
import { type AskFrame, FarloomError, type GrantFrame, keyAt, keyToUuid } from "@farloom/protocol";
import type { Logger } from "pino";
import { HttpFailure, httpJson, sleep } from "./http.js";

/** A task may run before its row is committed: then the service does not know it for some milliseconds. */
const TRIES = 6;
const FIRST_WAIT_MS = 50;

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
  async ask({ ids }: AskFrame): Promise<GrantFrame> {
    const { serviceUrl, log } = this.#options;
    const task = keyToUuid(keyAt(ids));
    for (let attempt = 1; ; attempt++) {
      try {
        const issued = await this.#fetch(task);
        return { t: "grant", ids, url: serviceUrl, ...issued };
      } catch (error) {
        const { code, status, message } = toFailure(error);
        const mayPass = status === 0 || status === 404 || status === 429 || status >= 500;
        if (!mayPass || attempt === TRIES || this.#stop.signal.aborted) {
          log.info({ task, code }, "a task got no token of its own");
          return { t: "grant", ids, code, message };
        }
      }
      await sleep(FIRST_WAIT_MS * 2 ** (attempt - 1), this.#stop.signal);
    }
  }

  close(): void {
    this.#stop.abort();
  }

  async #fetch(task: string): Promise<Issued> {
    const { signal } = this.#stop;
    const authorization = `Bearer ${await this.#options.token(signal)}`;
    const { token, expiresInMs, endpoint, group } = await httpJson<Issued>(
      new URL(`/v1/tasks/${task}/token`, this.#options.serviceUrl),
      { method: "POST", json: {}, headers: { authorization }, signal },
    );
    return { token, expiresInMs, endpoint, group };
  }
}

function toFailure(error: unknown): { code: string; status: number; message: string } {
  if (error instanceof HttpFailure) return error;
  return new FarloomError("INTERNAL", { reference: "agent" }, { cause: error });
}
