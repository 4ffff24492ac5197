/**
 * The command line of a worker in a container of Apptainer or Podman. The image brings the files, Python among them;
 * from the machine come the worker's program, its own folders and the door, as INSIDE says.
 */

import { INSIDE } from "./bubblewrap.js";
import type { IsolationConfig } from "./config.js";

export interface ContainerView {
  readonly network: boolean;
  readonly own: {
    readonly worker: string;
    readonly args: string;
    readonly payloads: string;
    readonly door: string;
  };
  /** The folder of the worker's program. */
  readonly program: string;
  /** Variables that Podman hands through; for Apptainer they carry its own prefix (containerVariables). */
  readonly variables: readonly string[];
}

/** Program and arguments up to what runs inside. */
export function containerCommand(
  config: Pick<IsolationConfig, "runner" | "image" | "readOnly" | "bind" | "limits">,
  view: ContainerView,
): [string, ...string[]] {
  const { own } = view;
  const mounts: [from: string, to: string, isReadOnly: boolean][] = [
    [`${own.worker}/scratch`, "/tmp", false],
    [own.worker, INSIDE.worker, false],
    [own.args, INSIDE.args, true],
    [own.payloads, INSIDE.payloads, false],
    [own.door, INSIDE.door, true],
    [view.program, INSIDE.program, true],
    ...config.readOnly.map((path): [string, string, boolean] => [path, path, true]),
    ...config.bind.map((path): [string, string, boolean] => [path, path, false]),
  ];
  const image = config.image ?? "";
  const workdir = `${INSIDE.worker}/scratch`;
  if (config.runner === "apptainer") {
    const args = ["exec", "--containall", "--no-home", "--no-privs", "--pid", "--ipc", "--pwd", workdir];
    if (!view.network) args.push("--net", "--network", "none");
    for (const [from, to, isReadOnly] of mounts)
      args.push("--bind", `${from}:${to}${isReadOnly ? ":ro" : ""}`);
    return ["apptainer", ...args, image];
  }
  const args = ["run", "--rm", "--interactive", "--read-only", "--cap-drop", "all", "--workdir", workdir];
  args.push("--security-opt", "no-new-privileges", "--network", view.network ? "private" : "none");
  if (config.limits.processes > 0) args.push("--pids-limit", String(config.limits.processes));
  if (config.limits.memoryMb > 0) args.push("--memory", `${config.limits.memoryMb}m`);
  for (const [from, to, isReadOnly] of mounts)
    args.push("--volume", `${from}:${to}${isReadOnly ? ":ro" : ""}`);
  for (const name of view.variables) args.push("--env", name);
  return ["podman", ...args, image];
}

/**
 * The variables that the container's process gets, as the runner's own process must have them: by name for Podman; for
 * Apptainer, whose --containall cleans the environment, under its prefix. Values never stand in an argv.
 */
export function containerVariables(
  runner: IsolationConfig["runner"],
  env: Readonly<Record<string, string>>,
): Record<string, string> {
  if (runner === "podman") return { ...env };
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [`APPTAINERENV_${name}`, value]));
}
