/** Which program runs a function: its lane, by runtime and interpreter. */
import { fileURLToPath } from "node:url";
import type { FunctionDefinition } from "@farloom/protocol";
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
      return "command";
  }
}

/** The program of a lane, or undefined where the configuration offers none. */
export function programOf(
  laneName: string,
  runtimes: RuntimeConfig,
  env: Readonly<Record<string, string | undefined>>,
): WorkerProgram | undefined {
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
  const interpreter = laneName === "command" ? "default" : laneName.slice("python:".length);
  const python = Object.hasOwn(runtimes.python ?? {}, interpreter)
    ? runtimes.python![interpreter]
    : undefined;
  if (laneName === "command") {
    if (runtimes.command === false) return undefined;
    return { command: python ?? "python3", args: [PYTHON_WORKER], env, runtime: "command" };
  }
  return python === undefined
    ? undefined
    : { command: python, args: [PYTHON_WORKER], env, runtime: "python" };
}
