/**
 * Open connections end with the API key that they were opened with. Whenever access has changed anywhere, the keys of
 * all that are open here are looked up, in one query; a hint makes that quick, and the look at the epoch sure.
 */
import type { Logger } from "pino";
import type { ApiKeys } from "../identity/api-keys.js";
import type { AccessEpoch } from "../store/access-epoch.js";

/** Before the keys are looked up again that PostgreSQL did not tell of. */
const AGAIN_MS = 500;

/** A connection that was opened with an API key, or with a token made from one. */
export interface KeyedSession {
  readonly keyId: string;
  /** Its key holds no more: it says so, and ends. */
  revoked(): void;
}

export class Revocations {
  readonly #keys: ApiKeys;
  readonly #epoch: AccessEpoch;
  readonly #log: Logger;
  readonly #sessions = new Set<KeyedSession>();
  #looking = false;
  #lookAgain = false;
  #closed = false;

  constructor(keys: ApiKeys, epoch: AccessEpoch, log: Logger) {
    this.#keys = keys;
    this.#epoch = epoch;
    this.#log = log;
    epoch.onChange(() => this.#look());
  }

  /** `generation` is the epoch's from before its credential was checked: what has changed since is looked at. */
  opened(session: KeyedSession, generation: number): void {
    this.#sessions.add(session);
    if (generation !== this.#epoch.generation) this.#look();
  }

  ended(session: KeyedSession): void {
    this.#sessions.delete(session);
  }

  close(): void {
    this.#closed = true;
  }

  #look(): void {
    this.#lookAgain = true;
    if (this.#looking) return;
    this.#looking = true;
    void this.#run().finally(() => {
      this.#looking = false;
    });
  }

  async #run(): Promise<void> {
    while (this.#lookAgain && !this.#closed) {
      this.#lookAgain = false;
      const ids = new Set([...this.#sessions].map((session) => session.keyId));
      if (ids.size === 0) continue;
      try {
        const ended = await this.#keys.ended([...ids]);
        if (ended.size === 0) continue;
        for (const session of [...this.#sessions]) if (ended.has(session.keyId)) session.revoked();
      } catch (err) {
        this.#log.warn({ err }, "the keys of open connections could not be looked up; trying again");
        this.#lookAgain = true;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS).unref());
      }
    }
  }
}
