/**
 * The secrets of the task that runs (P40): asked for before its function begins, in memory alone, and forgotten with the
 * task. What the task writes is masked before it leaves this process.
 */
import { type GrantFrame, type IdKey, keyAt, keyToBytes, type OutcomeDetail } from "@farloom/protocol";
import { Masks } from "../../secrets/masks.js";
import { Failure } from "./failure.js";
import type { NodeLink } from "./link.js";

/** The agent tries for two minutes. */
const WAIT_MS = 300_000;

export class TaskSecrets {
  readonly #link: () => NodeLink;
  #values: Readonly<Record<string, string>> | undefined;
  #masks: Masks | undefined;
  #asked: { readonly key: IdKey; readonly answer: (frame: GrantFrame | undefined) => void } | undefined;

  constructor(link: () => NodeLink) {
    this.#link = link;
  }

  /** What the running task was given. */
  get values(): Readonly<Record<string, string>> | undefined {
    return this.#values;
  }

  /** Before the function begins. @throws Failure where there are none */
  async fetch(key: IdKey): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const frame = await new Promise<GrantFrame | undefined>((resolve) => {
      this.#asked = { key, answer: resolve };
      timer = setTimeout(resolve, WAIT_MS, undefined);
      this.again();
    });
    clearTimeout(timer);
    this.#asked = undefined;
    if (frame?.secrets === undefined) {
      const { code = "NOT_READY", message = "no secrets came for the function" } = frame ?? {};
      throw new Failure(code.startsWith("SECRET") ? "not_authorised" : "environment", code, message);
    }
    this.#values = frame.secrets;
    this.#masks = new Masks(Object.values(frame.secrets));
  }

  /** A new session: what was asked in the last one may be lost. */
  again(): void {
    if (this.#asked) this.#link().send({ t: "ask", ids: keyToBytes(this.#asked.key), secrets: true });
  }

  /** A grant came. */
  take(frame: GrantFrame): void {
    if (this.#asked?.key === keyAt(frame.ids)) this.#asked.answer(frame);
  }

  /** `farloom.secret(name)`. */
  get(name: string): string {
    const value = this.#values?.[name];
    if (value !== undefined && Object.hasOwn(this.#values!, name)) return value;
    throw new Error(
      `the task was given no secret ${name}: a function names its secrets where it is registered (secrets: ["${name}"])`,
    );
  }

  /** The task is over: what it tells, without them. */
  forget(detail: OutcomeDetail | undefined): OutcomeDetail | undefined {
    const masks = this.#masks;
    this.#values = undefined;
    this.#masks = undefined;
    return detail && masks ? masks.maskDetail(detail) : detail;
  }
}
