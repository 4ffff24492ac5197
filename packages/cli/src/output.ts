/**
 * The one place that writes to the terminal. Results go to standard output, everything about them to standard error;
 * with --json, results are JSON and nothing else is on standard output. NO_COLOR is respected.
 */
import { FarloomError } from "@farloom/protocol";
import { TaskFailedError } from "@farloom/sdk";
import Table from "cli-table3";
import { CliError, isUserFileError } from "./exit-codes.js";

export interface OutputOptions {
  readonly json: boolean;
}

type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";
const CODES: Readonly<Record<Style, readonly [number, number]>> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
};

export class Output {
  readonly json: boolean;
  readonly #color: boolean;

  constructor(options: OutputOptions) {
    this.json = options.json;
    this.#color =
      !options.json &&
      process.env.NO_COLOR === undefined &&
      process.env.TERM !== "dumb" &&
      process.stdout.isTTY === true;
  }

  style(style: Style, text: string): string {
    const [on, off] = CODES[style];
    return this.#color ? `\u001b[${on}m${text}\u001b[${off}m` : text;
  }

  /** Text for people; with --json it goes to standard error. */
  say(text = ""): void {
    (this.json ? process.stderr : process.stdout).write(`${text}\n`);
  }

  /** About what happens, never a result. */
  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  /** A result: JSON with --json, otherwise what `human` says. */
  result(value: unknown, human: () => string): void {
    process.stdout.write(`${this.json ? JSON.stringify(value) : human()}\n`);
  }

  /** One line of JSON, with --json or without. */
  jsonLine(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** A list: with --json an array, otherwise a table, or `empty` where there is nothing. */
  list<T>(
    items: readonly T[],
    head: readonly string[],
    row: (item: T) => readonly unknown[],
    empty: string,
  ): void {
    this.result(items, () => (items.length === 0 ? empty : this.table(head, items.map(row))));
  }

  table(head: readonly string[], rows: readonly (readonly unknown[])[]): string {
    const none = { top: "", "top-mid": "", "top-left": "", "top-right": "", bottom: "", "bottom-mid": "" };
    const more = { "bottom-left": "", "bottom-right": "", left: "", "left-mid": "", mid: "", "mid-mid": "" };
    const table = new Table({
      head: head.map((text) => this.style("bold", text)),
      chars: { ...none, ...more, right: "", "right-mid": "", middle: "  " },
      style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    });
    for (const row of rows) table.push(row.map((cell) => clean(cell)));
    return table
      .toString()
      .split("\n")
      .map((line) => line.trimEnd())
      .join("\n");
  }

  /** Name and value, a line each; what is undefined is left out. */
  fields(pairs: readonly (readonly [string, unknown])[]): string {
    const set = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
    const width = Math.max(...set.map(([name]) => name.length));
    return set.map(([name, value]) => `${this.style("dim", name.padEnd(width))}  ${clean(value)}`).join("\n");
  }

  /** `error: …` and `hint: …` on standard error; with --json one object. */
  error(error: unknown): void {
    const { message, hint } = explain(error);
    if (this.json) {
      const code = error instanceof FarloomError ? error.code : undefined;
      process.stderr.write(`${JSON.stringify({ error: { code, message, hint } })}\n`);
      return;
    }
    process.stderr.write(`${this.#onStderr("red", "error:")} ${message}\n`);
    if (error instanceof TaskFailedError) {
      if (error.remoteTraceback) process.stderr.write(`${error.remoteTraceback.trimEnd()}\n`);
      this.#captured("standard output", error.stdout);
      this.#captured("standard error", error.stderr);
    }
    if (hint) process.stderr.write(`${this.#onStderr("cyan", "hint:")} ${hint}\n`);
  }

  #captured(name: string, text: string | undefined): void {
    if (text) process.stderr.write(`${this.#onStderr("dim", `its ${name}:`)}\n${text.trimEnd()}\n`);
  }

  #onStderr(style: Style, text: string): string {
    return process.stderr.isTTY ? this.style(style, text) : text;
  }
}

/** What others wrote must not steer the terminal: control characters are shown, not obeyed. */
function clean(value: unknown): string {
  const text = typeof value === "string" ? value : value === undefined || value === null ? "" : String(value);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for; our own colours pass.
  return text.replace(/[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f]|\u001b(?!\[\d{1,2}m)/g, "?");
}

function explain(error: unknown): { message: string; hint: string | undefined } {
  if (error instanceof CliError) return { message: error.message, hint: error.hint };
  if (isUserFileError(error) && error.path) {
    const why = { ENOENT: "is not there", EACCES: "may not be read", EISDIR: "is a directory" }[
      error.code ?? ""
    ];
    return { message: `${error.path} ${why ?? error.message}`, hint: undefined };
  }
  if (error instanceof FarloomError) {
    const hint = HINTS[error.code];
    return { message: error.message, hint: hint && !error.message.includes(hint) ? hint : undefined };
  }
  const { message, stack } = error as Error;
  return { message: message || String(error), hint: process.env.FARLOOM_DEBUG ? stack : undefined };
}

/** What to do next, where the catalogue's message does not say it. */
const HINTS: Readonly<Record<string, string>> = {
  UNAUTHENTICATED:
    "is the key for this service? 'farloom doctor' shows which one is used; 'farloom login' sets another",
  SERVICE_UNREACHABLE: "start one on this machine with 'farloom dev', or name another with 'farloom login'",
  TASK_LOST: "register the function with mode at_least_once if running it twice does no harm",
};
