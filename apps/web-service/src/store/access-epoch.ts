/**
 * Whether what this replica remembers of who may do what still holds. One row of PostgreSQL has a number that rises
 * with every change (triggers see to that); each replica looks at it again and again, and a hint makes it look at once.
 *
 *   E1  What was read from the database under a generation holds only in that generation, and only while `isFresh`:
 *       the number was seen unchanged by a question asked less than TRUST_MS ago. So no change goes unheard for longer,
 *       whatever is lost, and where the database does not answer nothing remembered holds.
 *   E2  The generation is taken before the reading, never after: what changed meanwhile then counts as changed.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";

/** Between two looks. One tiny query for each replica, however many tasks there are. */
const LOOK_MS = 1_500;
/** For how long one answer is good (E1): below the 5 s in which a revocation is heard, with room for what follows. */
const TRUST_MS = 4_000;

export class AccessEpoch {
  readonly #pool: Pool;
  readonly #log: Logger;
  readonly #listeners: (() => void)[] = [];
  readonly #timer: NodeJS.Timeout;
  #announce = (): void => undefined;
  #version = "";
  #generation = 0;
  #seenAtMs = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;
  #lookAgain = false;

  private constructor(pool: Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
    this.#timer.unref();
  }

  /** Resolves once it has seen the number. */
  static async start(pool: Pool, log: Logger): Promise<AccessEpoch> {
    const epoch = new AccessEpoch(pool, log);
    await epoch.look();
    return epoch;
  }

  /** Rises with every change that was heard of. */
  get generation(): number {
    return this.#generation;
  }

  get isFresh(): boolean {
    return performance.now() - this.#seenAtMs < TRUST_MS;
  }

  /** Called whenever something has changed, here or elsewhere. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** How other replicas are told of a change that was made here. */
  announceBy(announce: () => void): void {
    this.#announce = announce;
  }

  /** A change has committed here: nothing remembered before holds from here on. */
  changed(): void {
    this.#generation++;
    for (const listener of this.#listeners) listener();
    this.#announce();
    void this.look();
  }

  /** Looks now; one that is asked for while another runs follows it, as that may have read too early. */
  look(): Promise<void> {
    if (this.#looking) {
      this.#lookAgain = true;
      return this.#looking;
    }
    this.#looking = this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    do {
      this.#lookAgain = false;
      const askedAtMs = performance.now();
      try {
        const { rows } = await this.#pool.query<{ version: string }>({
          name: "access-epoch",
          text: "SELECT version FROM access_epoch WHERE id = 1",
        });
        const version = rows[0]!.version;
        if (version !== this.#version) {
          this.#version = version;
          this.#generation++;
          for (const listener of this.#listeners) listener();
        }
        this.#seenAtMs = askedAtMs;
      } catch (err) {
        this.#log.warn(
          { err },
          "changes of access could not be looked for; nothing remembered holds meanwhile",
        );
      }
    } while (this.#lookAgain);
  }
}
