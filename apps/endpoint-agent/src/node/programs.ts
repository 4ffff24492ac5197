/** Which program runs a function: its lane, by runtime and environment. */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import type { FunctionDefinition } from "@farloom/protocol";
import { OptionError } from "../blocks/options.js";
import { type EnvironmentConfig, parseEnvironment } from "./environments/environment-config.js";
import { pythonStart } from "./environments/environment-program.js";
import type { RuntimeConfig } from "./options.js";
import type { WorkerProgram } from "./worker.js";

/** Beside this file in the sources and in what is built from them: both are two folders below the package. */
const PYTHON_WORKER = fileURLToPath(new URL("../../src/workers/python/farloom_worker.py", import.meta.url));
const NODE_WORKER = fileURLToPath(new URL("../../dist/workers/node/main.js", import.meta.url));

/** The lane of a definition. */
export function laneNameOf(definition: FunctionDefinition): string {
  switch (definition.runtime) {
    case "python":
      return `python:${definition.env.interpreter ?? "default"}`;
    case "node":
      return "node";
    case "command":
      return definition.env.interpreter === undefined ? "command" : `command:${definition.env.interpreter}`;
  }
}

/**
 * What an image leaves of a node's runtimes: it brings its own Python, so that no environment of the machine's is there,
 * and Node with what our worker needs is not among its programs.
 */
export function runtimesInImage({ python, command }: RuntimeConfig): RuntimeConfig {
  return {
    ...(python?.default !== undefined && { python: { default: python.default } }),
    ...(command !== undefined && { command }),
    node: false,
  };
}

/** Where workers run. */
export interface ProgramPlace {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Folders of the node that workers in containers must see. */
  readonly folders: readonly string[];
}

/** The program of a lane, or undefined where the configuration offers none. */
export function programOf(
  laneName: string,
  runtimes: RuntimeConfig,
  place: ProgramPlace,
): WorkerProgram | undefined {
  const { env } = place;
  if (laneName === "node") {
    if (runtimes.node === false) return undefined;
    return {
      command: runtimes.node ?? process.execPath,
      // Source maps of nothing, warnings of experiments: noise in a task's standard error.
      args: ["--no-warnings", NODE_WORKER],
      env,
      runtime: "node",
    };
  }
  const runtime = laneName.startsWith("python:") ? "python" : "command";
  if (runtime === "command" && runtimes.command === false) return undefined;
  const name = laneName === "command" ? "default" : laneName.slice(`${runtime}:`.length);
  const pythons = runtimes.python ?? {};
  const environment = environmentOf(name, runtimes);
  if (environment !== undefined) {
    const folders = [...place.folders, dirname(PYTHON_WORKER)];
    const start = pythonStart(environment, { python: pythons.default ?? "python3", env, folders });
    const [command = "python3", ...args] = start.words;
    return { command, args: [...args, PYTHON_WORKER], env: start.env, runtime, configured: environment };
  }
  const python = Object.hasOwn(pythons, name) ? pythons[name] : undefined;
  const command = laneName === "command" ? (python ?? "python3") : python;
  return command === undefined ? undefined : { command, args: [PYTHON_WORKER], env, runtime };
}

/** By name, or by what the function itself says where that is allowed; text that means nothing is no environment. */
function environmentOf(name: string, { environments }: RuntimeConfig): EnvironmentConfig | undefined {
  if (environments === undefined) return undefined;
  if (Object.hasOwn(environments.named, name)) return environments.named[name];
  if (!environments.ofFunctions) return undefined;
  try {
    return parseEnvironment(name);
  } catch (error) {
    if (error instanceof OptionError) return undefined;
    throw error;
  }
}
