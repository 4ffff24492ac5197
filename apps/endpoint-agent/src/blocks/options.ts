/**
 * Options of providers: a table for each, from which they are checked and told to people.
 *
 * 1. Every error names the option as it was written and says what may stand there.
 * 2. Nothing unknown is let pass: a misspelt option that is ignored costs a day in a queue.
 */

/** One option: what it means, how a value is read, and what holds where none is given. */
export interface OptionSpec<T> {
  /** For the list of options: one sentence. */
  readonly help: string;
  /** What may stand there, for errors: `a whole number from 1 to 64`. */
  readonly form: string;
  /**
   * The value, or undefined where it is not of the form. Strings are read too, as flags know nothing else. Throws
   * `OptionError` where there is more to say.
   */
  readonly read: (value: unknown) => T | undefined;
  /** Absent: the option must be given. */
  readonly fallback?: { readonly value: T };
}

export type OptionTable = Readonly<Record<string, OptionSpec<unknown>>>;

/** The values of a table, by name in camelCase. */
export type OptionsOf<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends OptionSpec<infer V> ? V : never;
};

/** Wrong options. The message is for the person who wrote them. */
export class OptionError extends Error {
  override readonly name = "OptionError";
}

/** `nodesPerBlock` as configuration files write it: `nodes_per_block`. */
export function writtenName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Reads what was given, by names in snake_case. `where` is for errors: `[slurm] in agent.toml`. Throws `OptionError`. */
export function readOptions<T extends OptionTable>(
  table: T,
  given: Readonly<Record<string, unknown>>,
  where: string,
): OptionsOf<T> {
  const names = new Map(Object.keys(table).map((name) => [writtenName(name), name]));
  for (const name of Object.keys(given)) {
    if (names.has(name)) continue;
    throw new OptionError(
      `${where}: there is no option ${JSON.stringify(name)}; there are ${[...names.keys()].join(", ")}`,
    );
  }
  const values: Record<string, unknown> = {};
  for (const [written, name] of names) {
    const spec = table[name]!;
    const value = given[written];
    if (value === undefined) {
      if (spec.fallback === undefined) {
        throw new OptionError(`${where}: ${written} is missing. ${spec.help}`);
      }
      values[name] = spec.fallback.value;
      continue;
    }
    values[name] = readOption(spec, value, `${where}: ${written}`);
  }
  return Object.freeze(values) as OptionsOf<T>;
}

function readOption<T>(spec: OptionSpec<T>, value: unknown, where: string): T {
  let read: T | undefined;
  try {
    read = spec.read(value);
  } catch (error) {
    if (error instanceof OptionError) throw new OptionError(`${where}: ${error.message}`);
    throw error;
  }
  if (read === undefined) throw new OptionError(`${where} is ${JSON.stringify(value)}, not ${spec.form}`);
  return read;
}

/** The same option, which must be given. */
export function required<T>({ help, form, read }: OptionSpec<T>): OptionSpec<T> {
  return { help, form, read };
}

/** Longer than any name of a partition or path, and short enough for a command line. */
const MOST_TEXT_CHARS = 1024;
/** Of a list: a command line holds them all. */
const MOST_ITEMS = 64;

/** Control characters do harm in logs and listings, and no name has any. */
const CONTROL = /\p{Cc}/u;

/** Text on one line. Absent: undefined. */
export function text(
  help: string,
  form = `text on one line, 1 to ${MOST_TEXT_CHARS} characters`,
  pattern = /^/,
): OptionSpec<string | undefined> {
  return { help, form, read: (value) => lineOf(value, pattern), fallback: { value: undefined } };
}

function lineOf(value: unknown, pattern: RegExp): string | undefined {
  if (typeof value !== "string" || value === "" || value.length > MOST_TEXT_CHARS) return undefined;
  // What is no Unicode cannot be told to another program as it is.
  return CONTROL.test(value) || !value.isWellFormed() || !pattern.test(value) ? undefined : value;
}

/** A whole number; absent: `fallback`. */
export function whole<T extends number | undefined>(
  help: string,
  least: number,
  most: number,
  fallback: T,
): OptionSpec<number | T> {
  return {
    help,
    form: `a whole number from ${least} to ${most}`,
    read: (value) => {
      const n = typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : value;
      return Number.isInteger(n) && (n as number) >= least && (n as number) <= most
        ? (n as number)
        : undefined;
    },
    fallback: { value: fallback },
  };
}

/** true or false; absent: false. */
export function flag(help: string): OptionSpec<boolean> {
  return {
    help,
    form: "true or false",
    read: (value) => {
      if (value === true || value === "true" || value === "1") return true;
      return value === false || value === "false" || value === "0" ? false : undefined;
    },
    fallback: { value: false },
  };
}

/** A list of texts on one line each, none of which `refused` objects to. Absent: none. */
export function list(
  help: string,
  form: string,
  refused: (item: string) => string | undefined,
): OptionSpec<readonly string[]> {
  return {
    help,
    form: `a list of at most ${MOST_ITEMS}, each ${form}`,
    read: (value) => {
      const given: unknown[] = Array.isArray(value) ? value : [value];
      const items = given.flatMap((item) => lineOf(item, /^/) ?? []);
      if (items.length < given.length || items.length > MOST_ITEMS) return undefined;
      for (const item of items) {
        const why = refused(item);
        if (why !== undefined) throw new OptionError(`${JSON.stringify(item)}: ${why}`);
      }
      return items;
    },
    fallback: { value: [] },
  };
}

/**
 * A time limit in seconds: a number of them, or as batch systems write it, `[D-]HH:MM:SS`. Undefined for anything else:
 * `30:00` is minutes to Slurm and hours to others.
 */
export function secondsOf(value: unknown): number | undefined {
  if (typeof value === "number") return Number.isInteger(value) && value >= 0 ? value : undefined;
  const parts = /^(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)$/.exec(typeof value === "string" ? value : "");
  if (parts === null) return undefined;
  const [days = 0, hours = 0, minutes = 0, seconds = 0] = parts.slice(1).map((part) => Number(part ?? 0));
  return ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
}

/** An amount of memory, in MB. A bare number counts GB, as Parsl's `mem_per_node` does. Absent: undefined. */
export function memory(help: string): OptionSpec<number | undefined> {
  return {
    help,
    form: "an amount such as '16G' or '800M'; a bare number counts GB",
    read: (value) => {
      const parts = /^(\d{1,6})([MGT]?)B?$/i.exec(
        typeof value === "number" ? String(value) : String(value ?? ""),
      );
      if (parts === null) return undefined;
      const factor = { M: 1, G: 1024, T: 1024 ** 2 }[(parts[2] || "G").toUpperCase() as "M" | "G" | "T"];
      const mb = Number(parts[1]) * factor;
      return mb >= 1 && mb <= 1 << 30 ? mb : undefined;
    },
    fallback: { value: undefined },
  };
}
