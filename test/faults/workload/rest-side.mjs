/**
 * The client's REST half: submissions under an idempotency key, sent until somebody answers, and a watch over tasks
 * by their ids. Plain fetch: what curl would do, nothing of our SDK.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { isOpen, statementOf } from "./statements.mjs";

const REQUEST_MS = 10_000;
const WAIT_S = 2;
const IDS_AT_ONCE = 100;
const PAUSE_MS = 150;
/** Answers that say that this very request will never be taken. */
const FINAL = new Set([400, 401, 403, 404, 405, 410, 413, 415, 422]);

/** An error as a refusal: `final` where the task will never be taken under this submission. */
export function refusalOf(error) {
  return { code: error.code ?? error.name, final: FINAL.has(error.status) };
}

export class RestSide {
  /** Submissions that nobody has answered yet. */
  busy = 0;
  knowsDeadline = false;
  #options;
  /** Task id to nonce, of what is watched. */
  #watched = new Map();
  #watching = false;

  /** @param {{url: string, key: string, history: import("../record.mjs").Recorder, settled: (nonce: string) => void}} options */
  constructor(options) {
    this.#options = options;
  }

  /** What this service knows: an older one refuses fields that it does not know. */
  async learn() {
    for (let tries = 0; tries < 20; tries++) {
      try {
        const { body } = await this.call("GET", "/openapi.json");
        this.knowsDeadline = JSON.stringify(body ?? "").includes("deadlineMs");
        return;
      } catch {
        await sleep(PAUSE_MS);
      }
    }
  }

  async call(method, path, json, headers = {}) {
    const response = await fetch(this.#options.url + path, {
      method,
      signal: AbortSignal.timeout(REQUEST_MS),
      headers: {
        authorization: `Bearer ${this.#options.key}`,
        ...(json && { "content-type": "application/json" }),
        ...headers,
      },
      ...(json && { body: JSON.stringify(json) }),
    });
    const text = await response.text();
    const body = text === "" ? undefined : JSON.parse(text);
    if (response.ok) return { status: response.status, body };
    const after = Number(response.headers.get("retry-after") ?? 0);
    throw Object.assign(new Error(text.slice(0, 200)), {
      status: response.status,
      code: body?.code,
      afterMs: 1000 * after,
    });
  }

  /** Sends until it is taken or refused for good; `again`: once more after that, as a caller who lost the answer does. */
  async submit({ nonces, idempotencyKey, body, again, cancelAfterMs }) {
    this.busy++;
    try {
      const ids = await this.#submitUntilAnswered(nonces, idempotencyKey, body);
      if (ids === undefined) return;
      if (again) await this.#submitUntilAnswered(nonces, idempotencyKey, body, 5);
      for (const [i, id] of ids.entries()) this.watch(id, nonces[i]);
      if (cancelAfterMs !== undefined) await this.#cancel(ids, nonces, cancelAfterMs);
    } finally {
      this.busy--;
    }
  }

  async #submitUntilAnswered(nonces, idempotencyKey, body, tries = Number.POSITIVE_INFINITY) {
    const { history, settled } = this.#options;
    for (let i = 0; i < tries; i++) {
      try {
        const reply = await this.call("POST", "/v1/tasks", body, { "idempotency-key": idempotencyKey });
        const ids = reply.body.ids ?? [reply.body.id];
        for (const [j, task] of ids.entries())
          history.write("acked", { nonce: nonces[j], task, key: idempotencyKey });
        return ids;
      } catch (error) {
        if (FINAL.has(error.status)) {
          for (const nonce of nonces) {
            history.write("refused", { nonce, code: error.code, text: error.message, final: true });
            settled(nonce);
          }
          return undefined;
        }
        await sleep(Math.min(error.afterMs ?? 0, 2_000) || PAUSE_MS);
      }
    }
    return undefined;
  }

  async #cancel(ids, nonces, afterMs) {
    const { history } = this.#options;
    if (afterMs > 0) await sleep(afterMs);
    for (let i = 0; i < ids.length; i++) {
      history.write("cancel", { nonce: nonces[i], task: ids[i] });
      history.flush();
      await this.call("POST", `/v1/tasks/${ids[i]}/cancel`).catch(() => {});
    }
  }

  /** Asks for this task until it has ended. */
  watch(task, nonce) {
    this.#watched.set(task, nonce);
    if (this.#watching) return;
    this.#watching = true;
    void this.#watch();
  }

  async #watch() {
    const { history, settled } = this.#options;
    while (this.#watched.size > 0) {
      const ids = [...this.#watched.keys()].slice(0, IDS_AT_ONCE);
      try {
        const { body } = await this.call("POST", "/v1/tasks/status", { ids, results: true, wait: WAIT_S });
        for (const view of body.tasks) {
          const nonce = this.#watched.get(view.id);
          if (isOpen(view.state)) {
            // Others have their turn.
            this.#watched.delete(view.id);
            this.#watched.set(view.id, nonce);
            continue;
          }
          history.write("told", { nonce, ...statementOf(view) });
          this.#watched.delete(view.id);
          settled(nonce);
        }
        for (const id of body.missing) {
          history.write("missing", { task: id });
          settled(this.#watched.get(id));
          this.#watched.delete(id);
        }
      } catch {
        await sleep(PAUSE_MS);
      }
    }
    this.#watching = false;
  }
}
