/**
 * Open connections end with the API key, the login or the agent's key that they were opened with. Whenever access has changed
 * anywhere, those of all that are open here are looked up, in one query; a hint makes that quick, and the look at the epoch
 * sure.
 */
import type { Logger } from "pino";
import type { AccessEpoch } from "../store/access-epoch.js";

/** Before the keys are looked up again that PostgreSQL did not tell of. */
const AGAIN_MS = 500;

/** A connection that was opened with a credential of this id, or with a token made from it. */
export interface KeyedSession {
  readonly keyId: string;
  /** It holds no more: the connection says so, and ends. */
  revoked(): void;
}

export class Revocations {
  readonly #ended: (ids: readonly string[]) => Promise<ReadonlySet<string>>;
  readonly #epoch: AccessEpoch;
  readonly #log: Logger;
  readonly #sessions = new Set<KeyedSession>();
  #looking = false;
  #lookAgain = false;
  #closed = false;

  constructor(
    ended: (ids: readonly string[]) => Promise<ReadonlySet<string>>,
    epoch: AccessEpoch,
    log: Logger,
  ) {
    this.#ended = ended;
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
        const ended = await this.#ended([...ids]);
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
