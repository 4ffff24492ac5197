/**
 * The functions that this agent runs, whatever its service says (`--allow-function`), and those that want no more
 * isolation than its workers have (P36a). An id is checked by the agent
 * itself, as a definition's digest is; a name is as true as the service that tells it. Without a list everything runs.
 *
 * A refused task is answered before anything of it is run: FAILED `not_authorised`, with FUNCTION_NOT_ALLOWED.
 */
import {
  errorMessage,
  type FunctionMatcher,
  functionMatcher,
  type IsolationLevel,
  isolationSuffices,
  REASONS,
  TERMINAL_STATES,
} from "@farloom/protocol";
import { type FunctionKey, type FunctionsCache, functionKey } from "./functions-cache.js";
import type { OwnOutcome } from "./results/outcomes.js";

/** As many as definitions outlive a start. */
const MAX_WANTS = 2_000;

export class AllowedFunctions {
  readonly #endpoint: string;
  readonly #matches: FunctionMatcher | undefined;
  readonly #cache: FunctionsCache;
  readonly #level: IsolationLevel;
  #lacks = false;
  /** What a function wants, once its definition was seen here. At most MAX_WANTS; then all are looked up anew. */
  readonly #wants = new Map<FunctionKey, IsolationLevel | undefined>();

  constructor(
    patterns: readonly string[],
    endpoint: string,
    cache: FunctionsCache,
    level: IsolationLevel = "none",
  ) {
    this.#level = level;
    this.#endpoint = endpoint;
    this.#matches = patterns.length === 0 ? undefined : functionMatcher(patterns);
    this.#cache = cache;
  }

  /** Whether there is a list at all, or a function came that wants more isolation than there is. */
  get mayRefuse(): boolean {
    return this.#matches !== undefined || this.#lacks;
  }

  /** For each function of a batch: 1 where it is refused; undefined where none is. */
  refusedOf(digests: readonly Buffer[]): number[] | undefined {
    let refused: number[] | undefined;
    for (let i = 0; i < digests.length; i++) {
      if (this.allows(digests[i]!)) continue;
      refused ??= new Array<number>(digests.length).fill(0);
      refused[i] = 1;
    }
    return refused;
  }

  allows(digest: Buffer): boolean {
    if (!this.#isListed(digest)) return false;
    const suffices = isolationSuffices(this.#level, this.#wantedOf(digest));
    if (!suffices) this.#lacks = true;
    return suffices;
  }

  /** Undefined also where the definition is not here yet: it is asked about again when it comes. */
  #wantedOf(digest: Buffer): IsolationLevel | undefined {
    const key = functionKey(digest);
    if (this.#wants.has(key)) return this.#wants.get(key);
    const definition = this.#cache.has(key) ? this.#cache.get(key) : undefined;
    if (definition === undefined) return undefined;
    if (this.#wants.size >= MAX_WANTS) this.#wants.clear();
    this.#wants.set(key, definition.env.isolation);
    return definition.env.isolation;
  }

  #isListed(digest: Buffer): boolean {
    const matches = this.#matches;
    if (matches === undefined) return true;
    const id = digest.toString("hex");
    // The same code under several names is one function: each of them speaks for it.
    return (
      matches({ id, ref: undefined }) ||
      this.#cache.refsOf(functionKey(digest)).some((ref) => matches({ id, ref }))
    );
  }

  /** How a task of a refused function ends. */
  refusal(digest: Buffer): OwnOutcome {
    const name = this.#cache.refsOf(functionKey(digest))[0] ?? digest.toString("hex");
    const of = { endpoint: this.#endpoint, function: name };
    const wanted = this.#wantedOf(digest) ?? "none";
    const code = this.#isListed(digest) ? "ISOLATION_UNAVAILABLE" : "FUNCTION_NOT_ALLOWED";
    const error = { type: code, message: errorMessage(code, { ...of, wanted, level: this.#level }) };
    return { state: TERMINAL_STATES.FAILED, reason: REASONS.not_authorised, error, confirmed: true };
  }
}
