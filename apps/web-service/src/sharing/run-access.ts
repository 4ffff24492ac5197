/**
 * Whether a task may still run, asked again when it is about to be sent to an agent: its submitter may still invoke
 * there, the endpoint runs that function, and the function is still the submitter's to use. Answers come from memory;
 * what that does not know is looked up once, for all tasks of the same person and function.
 */
import type { IdKey } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { EndpointRegistry } from "../endpoints/registry.js";
import type { FunctionRecord } from "../functions/registry.js";
import { LEVELS } from "./levels.js";
import type { VisibleFunctions } from "./visible-functions.js";

/** What of a task is asked about. */
export interface RunnableTask {
  readonly ownerKey: IdKey;
  readonly endpointKey: IdKey;
  readonly fn: FunctionRecord;
}

export class RunAccess {
  readonly #endpoints: EndpointRegistry;
  readonly #visible: VisibleFunctions;

  constructor(endpoints: EndpointRegistry, visible: VisibleFunctions) {
    this.#endpoints = endpoints;
    this.#visible = visible;
  }

  /** Undefined where memory does not know: `ask`, and then again. */
  mayRun({ ownerKey, endpointKey, fn }: RunnableTask): boolean | undefined {
    const verdict = this.#endpoints.verdict(ownerKey, endpointKey);
    if (verdict === undefined) return undefined;
    const { grant } = verdict;
    if (grant === undefined || grant.level < LEVELS.invoke) return false;
    if (grant.functions !== undefined && !grant.functions(fn)) return false;
    return fn.ownerId === keyToUuid(ownerKey) || this.#visible.peek(fn.key, ownerKey);
  }

  /** Looks up what `mayRun` lacks. Rejects where the database does not answer. */
  async ask({ ownerKey, endpointKey, fn }: RunnableTask): Promise<void> {
    if (this.#endpoints.verdict(ownerKey, endpointKey) === undefined)
      await this.#endpoints.load(ownerKey, endpointKey);
    if (fn.ownerId !== keyToUuid(ownerKey) && this.#visible.peek(fn.key, ownerKey) === undefined)
      await this.#visible.load(fn.key, ownerKey);
  }
}
