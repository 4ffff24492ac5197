/**
 * The functions that this agent runs, whatever its service says (`--allow-function`). An id is checked by the agent
 * itself, as a definition's digest is; a name is as true as the service that tells it. Without a list everything runs.
 *
 * A refused task is answered before anything of it is run: FAILED `not_authorised`, with FUNCTION_NOT_ALLOWED.
 */
import {
  errorMessage,
  type FunctionMatcher,
  functionMatcher,
  REASONS,
  TERMINAL_STATES,
} from "@farloom/protocol";
import { type FunctionsCache, functionKey } from "./functions-cache.js";
import type { OwnOutcome } from "./results/outcomes.js";

export class AllowedFunctions {
  readonly #endpoint: string;
  readonly #matches: FunctionMatcher | undefined;
  readonly #cache: FunctionsCache;

  constructor(patterns: readonly string[], endpoint: string, cache: FunctionsCache) {
    this.#endpoint = endpoint;
    this.#matches = patterns.length === 0 ? undefined : functionMatcher(patterns);
    this.#cache = cache;
  }

  /** Whether there is a list at all. */
  get isListed(): boolean {
    return this.#matches !== undefined;
  }

  /** For each function of a batch: 1 where it is refused; undefined where none is. */
  refusedOf(digests: readonly Buffer[]): number[] | undefined {
    if (this.#matches === undefined) return undefined;
    const refused = digests.map((digest) => (this.allows(digest) ? 0 : 1));
    return refused.includes(1) ? refused : undefined;
  }

  allows(digest: Buffer): boolean {
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
    const message = errorMessage("FUNCTION_NOT_ALLOWED", { endpoint: this.#endpoint, function: name });
    const error = { type: "FUNCTION_NOT_ALLOWED", message };
    return { state: TERMINAL_STATES.FAILED, reason: REASONS.not_authorised, error, confirmed: true };
  }
}
