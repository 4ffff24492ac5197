/**
 * How a Python starts in an environment: the words before its arguments, and variables. Pure. No text of a configuration
 * becomes part of a script: names travel in variables, lines of a user in one that a constant script reads.
 */
import { delimiter, join } from "node:path";
import type { EnvironmentConfig } from "./environment-config.js";

export interface PythonStart {
  /** The program and what stands before the arguments of Python. */
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface PythonPlace {
  /** The endpoint's own interpreter. */
  readonly python: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Folders that a worker in a container must see, under the same paths. */
  readonly folders: readonly string[];
}

/** How names and lines reach the script; a sandbox that picks variables lets them through. */
export const LINES_VARIABLES = ["FARLOOM_WORKER_INIT", "FARLOOM_CONDA", "FARLOOM_MODULES"] as const;
/** Constant: standard input is the worker's, and the lines are not its tasks' business. */
const AFTER_LINES = `eval "$FARLOOM_WORKER_INIT" </dev/null && unset ${LINES_VARIABLES.join(" ")} && exec "$@"`;
const FIND_MODULE =
  'type module >/dev/null 2>&1 || for file in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /usr/share/modules/init/bash; do [ -r "$file" ] && . "$file" && break; done';
// Unquoted: several names, none of which has a space or another meaning for a shell (environment-config.ts).
const LOAD_MODULES = "module load $FARLOOM_MODULES || exit 1";
const ACTIVATE_CONDA =
  '[ -n "$CONDA_EXE" ] || CONDA_EXE=conda\neval "$("$CONDA_EXE" shell.bash hook)" && conda activate "$FARLOOM_CONDA" || exit 1';
/** What a container of podman takes over, by name. */
const PASSED_ON = ["FARLOOM_WORKER", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"];

/** Python in this environment. */
export function pythonStart(config: EnvironmentConfig, place: PythonPlace): PythonStart {
  const { venv, conda, modules, container, workerInit } = config;
  let env = place.env;
  let words: readonly string[];
  if (container !== undefined) words = inContainer(config, container, place.folders);
  else if (venv !== undefined) {
    const bin = join(venv, "bin");
    env = { ...env, VIRTUAL_ENV: venv, PATH: [bin, env.PATH].filter(Boolean).join(delimiter) };
    words = [join(bin, config.python ?? "python")];
  } else {
    // Whoever loads modules or activates conda means the Python that these bring.
    const brought = conda !== undefined ? "python" : modules.length > 0 ? "python3" : place.python;
    words = [config.python ?? brought];
  }
  const lines = [
    ...(modules.length > 0 ? [FIND_MODULE, LOAD_MODULES] : []),
    ...(conda === undefined ? [] : [ACTIVATE_CONDA]),
    ...(workerInit.trim() === "" ? [] : [workerInit]),
  ];
  if (lines.length === 0) return { words, env };
  const told = {
    FARLOOM_WORKER_INIT: lines.join("\n"),
    ...(modules.length > 0 && { FARLOOM_MODULES: modules.join(" ") }),
    ...(conda !== undefined && { FARLOOM_CONDA: conda }),
  };
  return { words: ["bash", "-c", AFTER_LINES, "farloom", ...words], env: { ...env, ...told } };
}

/** The words that run Python in the image, with the process ids, the network and the folders of this machine. */
function inContainer(config: EnvironmentConfig, image: string, folders: readonly string[]): string[] {
  const { containerRuntime: runtime, containerOptions: options } = config;
  const python = config.python ?? "python3";
  if (runtime !== "podman") {
    const binds = folders.flatMap((folder) => ["--bind", folder]);
    return [runtime, "exec", ...binds, ...options, image, python];
  }
  return [
    "podman",
    "run",
    "--rm",
    "--interactive",
    // Signals for the worker's process group and its socket reach it as they would outside.
    "--pid=host",
    "--network=host",
    "--userns=keep-id",
    ...folders.map((folder) => `--volume=${folder}:${folder}`),
    ...PASSED_ON.map((name) => `--env=${name}`),
    ...options,
    image,
    python,
  ];
}
