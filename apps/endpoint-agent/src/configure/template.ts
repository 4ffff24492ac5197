/**
 * Ready-made configurations: the files of `templates/`, one for each kind of machine. A file is an agent.toml with two
 * additions, both in comments or in place of values:
 *
 *     #! title: …   #! source: …   #! date: …      what it is for, the page its facts are from, and when they were looked up
 *     #! ask NAME: HELP                            a field that must be given
 *     #! ask NAME = VALUE: HELP                    one with a default
 *     #! ask NAME?: HELP                           one that may be left out; then every line that uses it goes
 *     key = {{NAME}}                               its value: a number where the text is one and the key's default is, else text
 *
 * Rendering is pure.
 */
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../../src/templates", import.meta.url));

export interface Field {
  readonly name: string;
  readonly help: string;
  /** Undefined: none. */
  readonly fallback: string | undefined;
  readonly isOptional: boolean;
}

export interface Template {
  readonly name: string;
  readonly title: string;
  readonly source: string;
  readonly date: string;
  readonly fields: readonly Field[];
  /** The configuration with its fields still in it. */
  readonly body: string;
}

/** All templates, by name. */
export function listTemplates(): Template[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith(".toml"))
    .sort()
    .map((file) => readTemplate(basename(file, ".toml"), readFileSync(join(FOLDER, file), "utf8")));
}

/** Reads one file's text. Throws where it is not of the form above. */
export function readTemplate(name: string, text: string): Template {
  const heads = new Map<string, string>();
  const fields: Field[] = [];
  const body: string[] = [];
  for (const line of text.split("\n")) {
    const ask = /^#! ask (\w+)(\?)?(?: = ([^:]*(?::\d\d)*))?: (.+)$/.exec(line);
    const head = /^#! (title|source|date): (.+)$/.exec(line);
    if (ask) {
      const [, field = "", optional, fallback, help = ""] = ask;
      fields.push({ name: field, help, fallback, isOptional: optional !== undefined });
    } else if (head) heads.set(head[1]!, head[2]!);
    else if (line.startsWith("#!")) throw new Error(`template ${name}: ${line}`);
    else body.push(line);
  }
  const told = (key: string): string => {
    const value = heads.get(key);
    if (value === undefined) throw new Error(`template ${name} has no ${key}`);
    return value;
  };
  const text_ = body.join("\n").trim();
  return { name, title: told("title"), source: told("source"), date: told("date"), fields, body: text_ };
}

/**
 * The configuration with its fields filled in. Throws an Error that names every field that is missing, or that there is
 * not.
 */
export function renderTemplate(template: Template, given: Readonly<Record<string, string>>): string {
  const { fields, body } = template;
  const unknown = Object.keys(given).filter((name) => !fields.some((field) => field.name === name));
  if (unknown.length > 0) {
    const there = fields.map((field) => field.name).join(", ");
    throw new Error(`template ${template.name} has no field ${unknown.join(", ")}; there are ${there}`);
  }
  const missing = missingFields(template, given);
  if (missing.length > 0) {
    const words = missing.map(({ name, help }) => `--set ${name}=…  ${help}`);
    throw new Error(`template ${template.name} needs:\n  ${words.join("\n  ")}`);
  }
  const filledIn = (name: string): string => {
    const text = given[name] || fields.find((field) => field.name === name)?.fallback;
    return text ?? "";
  };
  const lines = body.split("\n").flatMap((line) => {
    const name = /\{\{(\w+)\}\}/.exec(line)?.[1];
    if (name === undefined) return [line];
    const text = filledIn(name);
    if (text === "") return [];
    const value = NUMBERS.has(name) && /^\d+$/.test(text) ? text : tomlText(text);
    return [line.replace(`{{${name}}}`, () => value)];
  });
  const heading =
    `# ${template.title}: from the template "${template.name}" of farloom endpoint configure.\n` +
    `# Facts from ${template.source}, ${template.date}.\n`;
  return `${heading}\n${lines.join("\n")}\n`;
}

/** The fields that have neither a value nor a default, and must. */
export function missingFields(template: Template, given: Readonly<Record<string, string>>): readonly Field[] {
  return template.fields.filter(
    ({ name, fallback, isOptional }) => !given[name] && fallback === undefined && !isOptional,
  );
}

/** Fields that stand as numbers. */
const NUMBERS = new Set(["nodes", "max_blocks", "workers"]);

/** A basic string of TOML: JSON's escapes are among its own. */
function tomlText(text: string): string {
  return JSON.stringify(text).replaceAll("\u007f", "\\u007f");
}
