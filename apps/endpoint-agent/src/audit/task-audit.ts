/**
 * What the audit says of tasks. Batches stay batches: their ids are one text, so that a task costs its 32 digits and their
 * hash. Entries are put together as text, fields in canonical order.
 */
import {
  byteOf,
  type FunctionDefinition,
  functionIndexOf,
  keysToColumn,
  REASONS,
  type ResultsFrame,
  reasonName,
  stateName,
  type TasksFrame,
  u32Of,
} from "@farloom/protocol";
import { type FunctionKey, type FunctionsCache, functionKey } from "../functions-cache.js";
import type { OwnOutcome } from "../results/outcomes.js";
import { functionOf, type HeldTask, optionsOf } from "../scheduler/held-task.js";
import type { AuditLog } from "./audit-log.js";

const ID_BYTES = 16;
/** Texts that others chose are cut. */
const MAX_TEXT = 300;
/** Functions whose environment is known without a look at the disk. */
const MAX_ENVIRONMENTS = 2_000;

export interface TaskAuditOptions {
  readonly log: AuditLog;
  readonly functions: FunctionsCache;
  /** Whose signature let the function in, where one was asked for. */
  readonly signerOf: (digest: Buffer) => string | undefined;
  readonly isolation: string;
}

export class TaskAudit {
  readonly #options: TaskAuditOptions;
  readonly #log: AuditLog;
  readonly #environments = new Map<FunctionKey, string | undefined>();

  constructor(options: TaskAuditOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  /** These are about to be handed to a node. */
  started(node: string, frame: TasksFrame): void {
    if (!this.#log.tellsTasks) return;
    if (frame.fns.length === 1 && frame.opts === undefined && frame.attempts === undefined) {
      this.#started(node, {
        digest: frame.fns[0]!,
        submitter: undefined,
        attempt: 1,
        ids: frame.ids.toString("hex"),
      });
      return;
    }
    const groups = new Map<string, StartedGroup>();
    for (let i = 0; i < frame.n; i++) {
      const of = functionIndexOf(frame, i);
      const submitter = frame.opts?.[i]?.submitter;
      const attempt = u32Of(frame.attempts, i, 1);
      const name = `${of} ${attempt} ${submitter ?? ""}`;
      let group = groups.get(name);
      if (group === undefined) {
        group = { digest: frame.fns[of]!, submitter, attempt, ids: "" };
        groups.set(name, group);
      }
      group.ids += idText(frame.ids, i);
    }
    for (const group of groups.values()) this.#started(node, group);
  }

  /** A node gave them back unbegun. */
  returned(tasks: readonly HeldTask[]): void {
    if (this.#log.tellsTasks && tasks.length > 0)
      this.#log.text(`{"ids":"${idsText(tasks)}","what":"task.returned"}`);
  }

  /** Outcomes, as a node or the agent itself gave them. */
  ended(frame: ResultsFrame): void {
    if (!this.#log.tellsTasks) return;
    if (typeof frame.states === "number" && frame.reasons === undefined) {
      this.#ended(frame.states, 0, frame.ids.toString("hex"));
      return;
    }
    const groups = new Map<number, string>();
    for (let i = 0; i < frame.n; i++) {
      const kind = 256 * byteOf(frame.states, i) + byteOf(frame.reasons, i);
      groups.set(kind, (groups.get(kind) ?? "") + idText(frame.ids, i));
    }
    for (const [kind, ids] of groups) this.#ended(kind >> 8, kind & 255, ids);
  }

  /** Answered by the agent: what it may not run is refused, the rest has ended. */
  answered(tasks: readonly HeldTask[], outcome: OwnOutcome, frame: ResultsFrame): void {
    if (outcome.reason !== REASONS.not_authorised) {
      this.ended(frame);
      return;
    }
    const groups = new Map<string, HeldTask[]>();
    for (const task of tasks) {
      const name = `${functionOf(task).toString("hex")} ${optionsOf(task)?.submitter ?? ""}`;
      groups.set(name, [...(groups.get(name) ?? []), task]);
    }
    for (const group of groups.values())
      this.#log.entry({
        what: "task.refused",
        code: outcome.error?.type ?? "not_authorised",
        why: cut(outcome.error?.message),
        function: functionOf(group[0]!).toString("hex"),
        submitter: cut(optionsOf(group[0]!)?.submitter),
        ids: idsText(group),
      });
  }

  #started(node: string, { digest, submitter, attempt, ids }: StartedGroup): void {
    const { signerOf, isolation } = this.#options;
    const environment = this.#environmentOf(digest);
    const signer = signerOf(digest);
    this.#log.text(
      `{${attempt === 1 ? "" : `"attempt":${attempt},`}${textField("environment", environment)}"function":"${digest.toString("hex")}",` +
        `"ids":"${ids}","isolation":"${isolation}","node":${JSON.stringify(node)},` +
        `${textField("signer", signer)}${textField("submitter", submitter)}"what":"task.started"}`,
    );
  }

  #ended(state: number, reason: number, ids: string): void {
    const why = reason === 0 ? "" : `"reason":"${reasonName(reason)}",`;
    this.#log.text(`{"ids":"${ids}",${why}"state":"${stateName(state)}","what":"task.ended"}`);
  }

  #environmentOf(digest: Buffer): string | undefined {
    const key = functionKey(digest);
    if (this.#environments.has(key)) return this.#environments.get(key);
    if (!this.#options.functions.has(key)) return undefined;
    const definition: FunctionDefinition | undefined = this.#options.functions.get(key);
    if (this.#environments.size >= MAX_ENVIRONMENTS) this.#environments.clear();
    this.#environments.set(key, definition?.env.interpreter);
    return definition?.env.interpreter;
  }
}

interface StartedGroup {
  readonly digest: Buffer;
  readonly submitter: string | undefined;
  readonly attempt: number;
  ids: string;
}

const idText = (ids: Buffer, i: number): string => ids.toString("hex", ID_BYTES * i, ID_BYTES * (i + 1));
const idsText = (tasks: readonly HeldTask[]): string =>
  keysToColumn(tasks.map(({ key }) => key)).toString("hex");

const cut = (text: string | undefined): string | undefined => text?.slice(0, MAX_TEXT).toWellFormed();

/** A field and its comma; nothing where there is no text. */
function textField(name: string, text: string | undefined): string {
  return text === undefined ? "" : `"${name}":${JSON.stringify(cut(text))},`;
}
