/**
 * From a definition to something that can be called: ES module source, its TypeScript types stripped, loaded
 * once for each digest through a file in the worker's folder. Bare imports resolve from the working directory's
 * node_modules, where the call names a directory that has one.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { FunctionDefinition } from "@farloom/protocol";
import { transformSync } from "@swc/wasm-typescript";
import { Failure, userFailure } from "./failure.js";

export type Callable = (...args: unknown[]) => unknown;

/** Modules that stay loaded. Node cannot unload a module, so this bounds lookups and not memory. */
const MAX_LOADED = 256;

export class FunctionLoader {
  readonly #dir: string;
  readonly #loaded = new Map<string, Promise<Callable> | Callable>();

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** The function, at once where it is known. */
  load(definition: FunctionDefinition, cwd: string | undefined): Promise<Callable> | Callable {
    const modules =
      cwd !== undefined && existsSync(join(cwd, "node_modules")) ? join(cwd, "node_modules") : undefined;
    const id = definition.digest.toString("hex") + (modules === undefined ? "" : `@${modules}`);
    const known = this.#loaded.get(id);
    if (known) return known;
    const loading = this.#import(definition, modules).then(
      (callable) => {
        this.#loaded.set(id, callable);
        return callable;
      },
      (error: unknown) => {
        // Not remembered: an import may succeed once the environment is mended.
        this.#loaded.delete(id);
        throw error;
      },
    );
    this.#loaded.set(id, loading);
    if (this.#loaded.size > MAX_LOADED) this.#loaded.delete(this.#loaded.keys().next().value!);
    return loading;
  }

  async #import(definition: FunctionDefinition, modules: string | undefined): Promise<Callable> {
    if (definition.format !== "source") {
      throw new Failure(
        "function_invalid",
        "FunctionInvalid",
        "a Node function is source text, not a pickle",
      );
    }
    const code = strip(definition.code.toString("utf8"));
    const folder = join(
      this.#dir,
      modules === undefined
        ? "modules"
        : `modules-${createHash("sha256").update(modules).digest("hex").slice(0, 12)}`,
    );
    mkdirSync(folder, { recursive: true });
    if (modules !== undefined && !existsSync(join(folder, "node_modules"))) {
      symlinkSync(modules, join(folder, "node_modules"));
    }
    const path = join(folder, `farloom_${definition.digest.toString("hex").slice(0, 12)}.mjs`);
    writeFileSync(path, code);
    let module: Record<string, unknown>;
    try {
      module = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
    } catch (error) {
      throw importFailure(error);
    }
    const callable = module[definition.entry];
    if (typeof callable !== "function") {
      const names = Object.keys(module).filter((name) => typeof module[name] === "function");
      throw new Failure(
        "function_invalid",
        "FunctionInvalid",
        `the module exports no function named ${definition.entry}; it exports: ${names.slice(0, 20).join(", ") || "none"}`,
      );
    }
    return callable as Callable;
  }
}

/** Plain JavaScript of the same length and lines: types become blanks, so positions in a stack stay true. */
function strip(source: string): string {
  try {
    return transformSync(source, { mode: "strip-only", module: true }).code;
  } catch (thrown) {
    const error = thrown as { code?: string; message?: string; snippet?: string; startLine?: number };
    const where = error.startLine === undefined ? "" : ` (line ${error.startLine})`;
    if (error.code === "UnsupportedSyntax") {
      throw new Failure(
        "function_invalid",
        "UnsupportedSyntax",
        `types are only stripped, and this syntax makes code${where}: ${error.message}. Use a const object for an enum, and plain fields for parameter properties, or compile to JavaScript first`,
        error.snippet,
      );
    }
    throw new Failure(
      "function_invalid",
      "SyntaxError",
      `the source does not parse${where}: ${error.message}`,
      error.snippet,
    );
  }
}

function importFailure(thrown: unknown): Failure {
  const code = (thrown as NodeJS.ErrnoException)?.code;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  if (code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND") {
    return new Failure(
      "environment",
      "ModuleNotFound",
      `${message.split(" imported from")[0]}. Install it in a folder on the endpoint, and give that folder as the call's cwd`,
    );
  }
  if (thrown instanceof SyntaxError) {
    return new Failure("function_invalid", "SyntaxError", `the source does not load: ${message}`);
  }
  return userFailure(thrown, "the module threw as it was loaded: ");
}
