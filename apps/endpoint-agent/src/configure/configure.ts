/** `configure`: writes agent.toml from a template; asks on a terminal for what is not given. */
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { parse as parseToml } from "smol-toml";
import { checkConfigFile } from "../config.js";
import { openStateDir } from "../state/state-dir.js";
import { type Field, listTemplates, missingFields, renderTemplate, type Template } from "./template.js";

export interface ConfigureOptions {
  readonly stateDir: string;
  /** Absent: asked for. */
  readonly template?: string | undefined;
  readonly values: Readonly<Record<string, string>>;
  /** Whether a file that is there is replaced; it is kept beside the new one in any case. */
  readonly force: boolean;
  /** Questions and answers; absent: nobody can be asked. */
  readonly terminal?: { question(text: string): Promise<string> } | undefined;
}

/** What was written, and where. Throws an Error that says what is missing or wrong; then nothing was written. */
export async function configure(
  options: ConfigureOptions,
): Promise<{ path: string; text: string; template: string }> {
  const paths = openStateDir(options.stateDir);
  if (existsSync(paths.configFile) && !options.force)
    throw new Error(
      `${paths.configFile} is there already: --force replaces it, and keeps it as agent.toml.before`,
    );
  const template = await chooseTemplate(options);
  const values = await ask(template, options);
  const text = renderTemplate(template, values);
  checkConfigFile(parseToml(text), options.stateDir);
  const aside = `${paths.configFile}.new`;
  writeFileSync(aside, text, { mode: 0o600 });
  if (existsSync(paths.configFile)) renameSync(paths.configFile, `${paths.configFile}.before`);
  renameSync(aside, paths.configFile);
  return { path: paths.configFile, text, template: template.name };
}

async function chooseTemplate({ template, terminal }: ConfigureOptions): Promise<Template> {
  const templates = listTemplates();
  const byName = (name: string): Template => {
    const found = templates.find((one) => one.name === name);
    if (found) return found;
    throw new Error(
      `there is no template '${name}'; there are ${templates.map((one) => one.name).join(", ")}`,
    );
  };
  if (template !== undefined) return byName(template);
  if (terminal === undefined) throw new Error("which template? --template NAME; --list shows them");
  const list = templates.map((one) => `  ${one.name.padEnd(16)}${one.title}`).join("\n");
  return byName((await terminal.question(`${list}\nWhich one? [slurm] `)).trim() || "slurm");
}

async function ask(
  template: Template,
  { values, terminal }: ConfigureOptions,
): Promise<Record<string, string>> {
  const answers: Record<string, string> = { ...values };
  if (terminal === undefined) return answers;
  for (const field of template.fields) {
    if (answers[field.name] !== undefined) continue;
    do {
      answers[field.name] = (await terminal.question(question(field))).trim();
    } while (missingFields(template, answers).some((one) => one.name === field.name));
  }
  return answers;
}

function question({ name, help, fallback, isOptional }: Field): string {
  return `${name}: ${help} ${fallback !== undefined ? `[${fallback}]` : isOptional ? "[none]" : ""}\n> `;
}

/** `account=abc` pairs, as --set takes them. Throws for what is none. */
export function readPairs(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw new Error(`--set takes NAME=VALUE, not '${pair}'`);
      return [pair.slice(0, at), pair.slice(at + 1)] as const;
    }),
  );
}
