/**
 * The agent's own word on what runs here (P37): tasks of functions that it does not know to be trusted wait until the
 * service has told their signatures, and are then let on or answered, never begun.
 *
 *     a task comes ─► known and trusted ─────────────────────────────► on
 *                └──► not known: `need` ─► `functions {signatures}` ─► on, or FAILED FUNCTION_UNTRUSTED
 *
 *   T1  Nothing that the service says lowers what is asked: mode, keys and patterns come from this machine alone.
 *   T2  What is not answered, malformed, unreadable or expired is untrusted.
 *   T3  A verdict holds until it expires or trust.toml changes; that something is untrusted is not remembered, so that a
 *       signature which is added later counts at the next task.
 *   T4  In mode enforce a call whose arguments are code (a command's, pickled ones, an environment or a directory of its
 *       own) must be signed by its caller, where trust.toml does not say otherwise.
 *
 * Mode off costs one look at a field for each batch. Bounds: verdicts of MAX_VERDICTS functions; what waits are held tasks.
 */
import {
  byteOf,
  CODEC_REFERENCE,
  CODECS,
  errorMessage,
  type Frame,
  functionIndexOf,
  type IdKey,
  keyToBytes,
  keyToUuid,
  MAX_ENVELOPE_BYTES,
  optionsDigest,
  REASONS,
  SEAL_BYTES,
  type TaskOptions,
  type TasksFrame,
  TERMINAL_STATES,
  writeSeal,
} from "@farloom/protocol";
import type { Logger } from "pino";
import type { AuditLog } from "../audit/audit-log.js";
import { type FunctionKey, type FunctionsCache, functionKey } from "../functions-cache.js";
import type { OwnOutcome } from "../results/outcomes.js";
import { argumentsOf, codecOf, functionOf, type HeldTask, optionsOf } from "../scheduler/held-task.js";
import { type InvocationLedger, nowSeconds } from "./invocation-ledger.js";
import { type FunctionVerdict, judgeCall, judgeFunction } from "./judge.js";
import type { TrustSource } from "./trust-source.js";

/** How long a service may take to tell signatures. One that is older than signatures never does. */
const ANSWER_MS = 20_000;
const MAX_VERDICTS = 4_096;
/** Envelopes of one function that are looked at: as many as a service tells. */
const MAX_SIGNATURES_TOLD = 16;
/** Functions in one `need`: as many as a service answers. */
const MAX_ASKED = 64;
const MAX_PROBLEM_CHARS = 300;

export interface FunctionTrustOptions {
  readonly source: TrustSource;
  readonly cache: FunctionsCache;
  readonly ledger: InvocationLedger;
  readonly endpoint: { readonly id: string; readonly name: string };
  readonly audit: AuditLog;
  readonly log: Logger;
}

const hexOf = (key: IdKey): string => keyToBytes(key).toString("hex");

/** What the engine does for it. */
export interface TrustUser {
  readonly toService: (frame: Frame) => void;
  /** Nothing of trust holds the task up any more. */
  readonly onReady: (task: HeldTask) => void;
  readonly onRefused: (task: HeldTask, outcome: OwnOutcome) => void;
}

type Trusted = Extract<FunctionVerdict, { isTrusted: true }>;

interface Asked {
  readonly tasks: Set<HeldTask>;
  timer: NodeJS.Timeout | undefined;
}

export class FunctionTrust {
  readonly #options: FunctionTrustOptions;
  readonly #log: Logger;
  #user: TrustUser | undefined;
  readonly #trusted = new Map<FunctionKey, Trusted>();
  readonly #asked = new Map<FunctionKey, Asked>();
  /** Lists of signatures by which a function was not trusted: judged once, as that costs. */
  readonly #failed = new Map<FunctionKey, readonly string[]>();
  /** Of each batch, which of its tasks were said to wait. */
  readonly #waiting = new WeakMap<TasksFrame, Set<number>>();
  /** Tasks of the journal, whose calls may be taken already. */
  readonly #restored = new WeakSet<HeldTask>();
  #isOpen = false;

  constructor(options: FunctionTrustOptions) {
    this.#options = options;
    this.#log = options.log;
    options.source.onChange = () => this.#changed();
  }

  /** Hears of what else must be asked again when trust.toml has changed. */
  onChange: () => void = () => undefined;

  attach(user: TrustUser): void {
    this.#user = user;
  }

  /** What is in force, for the audit. */
  get standing(): { readonly mode: string; readonly keys: number; readonly problem: string | undefined } {
    const { mode, trust, problem } = this.#options.source;
    return { mode, keys: trust.keys.length, problem: problem?.slice(0, MAX_PROBLEM_CHARS) };
  }

  /** Whose key it was that let the function in; undefined where none was asked for. */
  signerOf(digest: Buffer): string | undefined {
    return this.#trusted.get(functionKey(digest))?.signer;
  }

  get isOn(): boolean {
    return this.#options.source.mode !== "off";
  }

  /** Whether task i of a batch has to wait for `admit`; undefined where none has to. */
  waitsOf(frame: TasksFrame): ((i: number) => boolean) | undefined {
    if (!this.isOn) return undefined;
    const open = frame.fns.map((digest) => this.#verdictOf(digest) === undefined);
    const rule = this.#options.source.trust.invocations;
    if (rule === "off" && !open.includes(true)) return undefined;
    const waiting = new Set<number>();
    this.#waiting.set(frame, waiting);
    return (i) => {
      const of = functionIndexOf(frame, i);
      if (!open[of] && !this.#mustBeSigned(frame.fns[of]!, byteOf(frame.codecs, i), frame.opts?.[i]))
        return false;
      waiting.add(i);
      return true;
    };
  }

  /** Whether `waitsOf` said so of the task. */
  holds(task: HeldTask): boolean {
    return this.#waiting.get(task.frame)?.has(task.index) === true;
  }

  /** A task that waits: it is let on or answered now, or once the service has told. */
  admit(task: HeldTask, isRestored: boolean): void {
    if (isRestored) this.#restored.add(task);
    const digest = functionOf(task);
    const verdict = this.#verdictOf(digest);
    const key = functionKey(digest);
    if (verdict !== undefined) {
      this.#decide(task, verdict);
      return;
    }
    const asked = this.#asked.get(key);
    if (asked) asked.tasks.add(task);
    else {
      this.#asked.set(key, { tasks: new Set([task]), timer: undefined });
      this.#ask([key]);
    }
  }

  /** What the service told of a function. Without `signatures` it is no answer. */
  told(digest: Buffer, signatures: readonly string[] | undefined): void {
    if (signatures === undefined) return;
    const key = functionKey(digest);
    const asked = this.#asked.get(key);
    if (asked === undefined) return;
    const told = signatures.slice(0, MAX_SIGNATURES_TOLD).filter((text) => text.length <= MAX_ENVELOPE_BYTES);
    try {
      this.#options.cache.putSignatures(key, told);
    } catch (err) {
      this.#log.warn({ err }, "signatures cannot be written; the next start asks for them again");
    }
    this.#settle(key, asked, this.#judge(digest, told));
  }

  /** Of a task in line: how it ends where its function is trusted no more; undefined where it may go on. */
  refusalOf(task: HeldTask): OwnOutcome | undefined {
    if (this.#options.source.mode !== "enforce") return undefined;
    const digest = functionOf(task);
    if (this.#verdictOf(digest) !== undefined) return undefined;
    const verdict = this.#judge(digest, this.#options.cache.signaturesOf(functionKey(digest)));
    return verdict.isTrusted ? undefined : this.#refusal("FUNCTION_UNTRUSTED", task, verdict.why);
  }

  /** Calls that were given back unbegun may come again. */
  returned(tasks: readonly HeldTask[]): void {
    for (const task of tasks)
      if (optionsOf(task)?.invocation !== undefined) this.#options.ledger.release(task.key, task.attempt);
  }

  serviceCame(): void {
    this.#isOpen = true;
    this.#ask([...this.#asked.keys()]);
  }

  serviceWent(): void {
    this.#isOpen = false;
    for (const asked of this.#asked.values()) clearTimeout(asked.timer);
  }

  close(): void {
    this.serviceWent();
    this.#asked.clear();
    this.#options.ledger.close();
    this.#options.source.close();
  }

  // ─── functions ─────────────────────────────────────────────────────────────────────────────────────────

  #verdictOf(digest: Buffer): Trusted | undefined {
    const key = functionKey(digest);
    const known = this.#trusted.get(key);
    if (known !== undefined && known.until > nowSeconds()) return known;
    const signatures = this.#options.cache.signaturesOf(key);
    if (signatures.length === 0 || this.#failed.get(key) === signatures) return undefined;
    const verdict = this.#judge(digest, signatures);
    if (verdict.isTrusted) return verdict;
    if (this.#failed.size >= MAX_VERDICTS) this.#failed.clear();
    this.#failed.set(key, signatures);
    return undefined;
  }

  #judge(digest: Buffer, signatures: readonly string[]): FunctionVerdict {
    const { source } = this.#options;
    if (source.problem !== undefined) return { isTrusted: false, why: source.problem };
    const verdict = judgeFunction(digest.toString("hex"), signatures, source.trust, nowSeconds());
    if (verdict.isTrusted) {
      if (this.#trusted.size >= MAX_VERDICTS) this.#trusted.clear();
      this.#trusted.set(functionKey(digest), verdict);
    }
    return verdict;
  }

  #ask(keys: readonly FunctionKey[]): void {
    if (!this.#isOpen) return;
    for (let from = 0; from < keys.length; from += MAX_ASKED) {
      const part = keys.slice(from, from + MAX_ASKED);
      this.#user?.toService({ t: "need", functions: part.map((key) => Buffer.from(key, "latin1")) });
    }
    for (const key of keys) {
      const asked = this.#asked.get(key)!;
      clearTimeout(asked.timer);
      const why = "the service does not tell who signed it";
      asked.timer = setTimeout(() => this.#settle(key, asked, { isTrusted: false, why }), ANSWER_MS);
      asked.timer.unref();
    }
  }

  #settle(key: FunctionKey, asked: Asked, verdict: FunctionVerdict): void {
    clearTimeout(asked.timer);
    this.#asked.delete(key);
    for (const task of asked.tasks) if (task.state === "waiting") this.#decide(task, verdict);
  }

  /** trust.toml is another one: what was trusted is judged anew, what waits is asked for again. */
  #changed(): void {
    this.#trusted.clear();
    this.#failed.clear();
    const { mode, problem, trust } = this.#options.source;
    if (problem !== undefined) this.#log.error({ problem }, "trust.toml cannot be used: nothing is trusted");
    else this.#log.info({ mode, keys: trust.keys.length }, "trust.toml was read");
    for (const [key, asked] of [...this.#asked]) {
      clearTimeout(asked.timer);
      this.#asked.delete(key);
      for (const task of asked.tasks) if (task.state === "waiting") this.admit(task, false);
    }
    this.onChange();
  }

  // ─── tasks ─────────────────────────────────────────────────────────────────────────────────────────────

  #decide(task: HeldTask, verdict: FunctionVerdict): void {
    if (!verdict.isTrusted && !this.#passes("FUNCTION_UNTRUSTED", task, verdict.why)) return;
    const why = this.#callProblem(task, verdict.isTrusted ? verdict.names : []);
    if (why !== undefined && !this.#passes("INVOCATION_UNTRUSTED", task, why)) return;
    this.#user?.onReady(task);
  }

  /** Whether it goes on all the same (mode warn or off). Where not, the task is answered. */
  #passes(code: "FUNCTION_UNTRUSTED" | "INVOCATION_UNTRUSTED", task: HeldTask, why: string): boolean {
    const { mode } = this.#options.source;
    if (mode === "off") return true;
    const fields = {
      audit: true,
      code,
      task: keyToUuid(task.key),
      function: functionOf(task).toString("hex"),
      why,
    };
    if (mode === "warn") {
      this.#log.warn(fields, "a task runs that is not trusted here, as the mode is warn");
      const { audit: _said, ...told } = fields;
      this.#options.audit.entry({ what: "trust.warned", ...told, task: undefined, ids: hexOf(task.key) });
      return true;
    }
    this.#log.warn(fields, "a task was refused: it is not trusted here");
    this.#user?.onRefused(task, this.#refusal(code, task, why));
    return false;
  }

  #refusal(code: "FUNCTION_UNTRUSTED" | "INVOCATION_UNTRUSTED", task: HeldTask, why: string): OwnOutcome {
    const digest = functionOf(task);
    const name = this.#options.cache.refsOf(functionKey(digest))[0] ?? digest.toString("hex");
    const message = errorMessage(code, { endpoint: this.#options.endpoint.name, function: name, why });
    const error = { type: code, message };
    return { state: TERMINAL_STATES.FAILED, reason: REASONS.not_authorised, error, confirmed: true };
  }

  /** T4 */
  #mustBeSigned(digest: Buffer, codec: number, options: TaskOptions | undefined): boolean {
    const rule = this.#options.source.trust.invocations;
    if (rule !== "code") return rule === "all";
    const { env, cwd } = options ?? {};
    if ((codec & ~CODEC_REFERENCE) === CODECS.pickle || env !== undefined || cwd !== undefined) return true;
    return this.#options.cache.runtimeOf(functionKey(digest)) === "command";
  }

  #callProblem(task: HeldTask, names: readonly string[]): string | undefined {
    const options = optionsOf(task);
    const digest = functionOf(task);
    const codec = codecOf(task);
    if (!this.#mustBeSigned(digest, codec, options)) return undefined;
    const { source, endpoint, ledger } = this.#options;
    if (source.problem !== undefined) return source.problem;
    const seal = Buffer.alloc(SEAL_BYTES);
    writeSeal(seal, 0, task.key, argumentsOf(task));
    const call = {
      task: keyToUuid(task.key),
      endpoint: endpoint.id,
      function: digest.toString("hex"),
      arguments: seal.toString("hex"),
      codec,
      options: optionsDigest(options),
      names,
    };
    const verdict = judgeCall(call, options?.invocation, source.trust, nowSeconds());
    if (!verdict.isTrusted) return verdict.why;
    const { expires, attempts, key } = verdict.statement;
    this.#options.audit.entry({ what: "call.signed", key, ids: hexOf(task.key) });
    return ledger.take(task.key, task.attempt, { expires, attempts, isHeld: this.#restored.has(task) });
  }
}
