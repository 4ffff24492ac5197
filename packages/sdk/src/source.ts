/**
 * From what a person has (a file, a text, a JavaScript function, a command line) to what is registered. Finds the
 * entry where the code leaves no doubt, and names the candidates where it does.
 */
import { readFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { FarloomError, type IsolationLevel, type Runtime } from "@farloom/protocol";
import type { FunctionSpec } from "./resources.js";

// biome-ignore lint/suspicious/noExplicitAny: any function may be given; its types pass through `register`.
export type AnyFunction = (...args: any[]) => unknown;

/** What `register` takes: a FunctionSpec, with the code also as a file or as a JavaScript function. */
export type RegisterSpec = Omit<FunctionSpec, "name" | "runtime"> & {
  /** Default: the entry's name. */
  readonly name?: string;
  /** Default: by the file's extension; `node` for a JavaScript function, `command` where there is a command. */
  readonly runtime?: Runtime;
  /** The least isolation that a call wants of its endpoint: `env.isolation`. */
  readonly isolation?: IsolationLevel;
  /** A call wants the network, where its endpoint leaves that to functions: `env.network`. */
  readonly network?: boolean;
  /** Names of secrets that a call is given, of whoever submits it: `env.secrets`. */
  readonly secrets?: readonly string[];
  /** Path of a file with the code. */
  readonly file?: string;
  /** A JavaScript function that uses nothing from outside itself: its text is what runs. */
  readonly fn?: AnyFunction;
};

const RUNTIME_OF_EXTENSION: Readonly<Record<string, Runtime>> = {
  ".py": "python",
  ".js": "node",
  ".mjs": "node",
};

/** The registration's body. */
export async function functionSpec(spec: RegisterSpec): Promise<FunctionSpec> {
  const { file, fn, isolation, network, secrets, ...said } = spec;
  const wants = {
    ...(isolation && { isolation }),
    ...(network !== undefined && { network }),
    ...(secrets && { secrets: [...secrets] }),
  };
  const given = Object.keys(wants).length > 0 ? { ...said, env: { ...said.env, ...wants } } : said;
  if (fn !== undefined) return ofJavaScript(fn, given);
  const code = file === undefined ? given.code : await readFile(file, "utf8");
  const runtime = given.runtime ?? runtimeOf(file, given);
  if (runtime === "command" || given.format === "pickle") {
    const { code: _, ...rest } = given;
    const withCode = runtime === "command" || code === undefined ? rest : { ...rest, code };
    return { ...withCode, runtime, name: named(given.name ?? basename(given.command?.argv[0] ?? "")) };
  }
  if (code === undefined) throw invalid("code is missing: give {code}, {file} or {fn}");
  const entry = given.entry ?? entryIn(code, runtime, [given.name, "main", file && stem(file)]);
  return { ...given, code, runtime, entry, name: named(given.name ?? entry) };
}

function runtimeOf(file: string | undefined, given: { command?: unknown }): Runtime {
  if (given.command !== undefined) return "command";
  const runtime = file === undefined ? undefined : RUNTIME_OF_EXTENSION[extname(file).toLowerCase()];
  if (runtime !== undefined) return runtime;
  throw invalid(
    `the runtime is not clear${file ? ` from the name ${basename(file)}` : ""}; say python, node or command`,
  );
}

/** JavaScript's own text of the function, made a module whose export is called. */
function ofJavaScript(fn: AnyFunction, given: Omit<RegisterSpec, "file" | "fn">): FunctionSpec {
  const text = Function.prototype.toString.call(fn);
  if (/\{\s*\[native code\]\s*\}\s*$/.test(text)) {
    throw invalid("a bound or built-in function has no source text; wrap it: (x) => f(x)");
  }
  if (/^class\b/.test(text)) throw invalid("a class is no function; wrap it: (x) => new C(x).run()");
  const method = !/^(async\s+)?(function\b|\(|[\p{L}_$][\p{L}\p{N}_$]*\s*=>)/u.test(text);
  const expression = method ? `Object.values({ ${text} })[0]` : `(${text})`;
  const name = given.name ?? fn.name;
  return {
    ...given,
    name: named(name),
    runtime: "node",
    entry: "call",
    code: `export const call = ${expression};\n`,
  };
}

/** The function that the code defines, or that one of them which is meant by `preferred`. */
export function entryIn(code: string, runtime: Runtime, preferred: readonly (string | undefined)[]): string {
  const found = [...new Set(definedIn(code, runtime))];
  for (const name of preferred) if (name !== undefined && found.includes(name)) return name;
  const open = found.filter((name) => !name.startsWith("_"));
  if (open.length === 1) return open[0]!;
  if (open.length === 0) {
    throw invalid(
      runtime === "node"
        ? "the module exports no function: export function name(…) { … }"
        : "the code defines no function at its top level",
    );
  }
  throw invalid(`the code defines ${open.join(", ")}; say which one is called with entry`);
}

function definedIn(code: string, runtime: Runtime): string[] {
  const pattern =
    runtime === "python"
      ? /^(?:async[ \t]+)?def[ \t]+([\p{L}_][\p{L}\p{N}_]*)/gmu
      : /^export[ \t]+(?:(?:async[ \t]+)?function[ \t]*\*?[ \t]*|(?:const|let|var)[ \t]+)([\p{L}_$][\p{L}\p{N}_$]*)/gmu;
  const names = [...code.matchAll(pattern)].map((match) => match[1]!);
  if (runtime === "node" && /^export[ \t]+default\b/m.test(code)) names.push("default");
  return names;
}

function named(name: string): string {
  if (name !== "" && name !== "default") return name;
  throw invalid("the function has no name; give it one: {name}");
}

function stem(file: string): string {
  return basename(file, extname(file));
}

function invalid(detail: string): FarloomError {
  return new FarloomError("FUNCTION_INVALID", { detail });
}
