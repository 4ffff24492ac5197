/** What the Pythons of an endpoint are and have, asked of themselves, so that clients can compare before they send. */
import { join } from "node:path";
import type { PythonInfo } from "@farloom/protocol";
import type { IsolationConfig } from "../../isolation/config.js";
import { printedInImage } from "../../isolation/probe.js";
import { printed } from "../../python-version.js";
import type { EnvironmentConfig, EnvironmentsConfig } from "./environment-config.js";
import { pythonStart } from "./environment-program.js";

/** Distributions, and what they are imported as where that is another name. */
const MAX_PACKAGES = 2_000;
/** Modules and containers take their time, and an agent does not wait for them for ever. */
const MAX_CHARS = 256 * 1024;

/** Much less than the whole list, which takes long where packages lie on a slow disk. */
const CLOUDPICKLE_PROBE = "import importlib.metadata as m;print(m.version('cloudpickle'))";

const PROBE = `
import importlib.metadata as m, json, sys
found = {}
for d in m.distributions():
    name = d.metadata["Name"]
    if name: found[name.lower().replace("_", "-").replace(".", "-")] = str(d.version)
for module, owners in getattr(m, "packages_distributions", dict)().items():
    for owner in owners:
        version = found.get(owner.lower().replace("_", "-").replace(".", "-"))
        if version and not module.startswith("_"): found.setdefault(module.lower().replace("_", "-"), version)
found = dict(sorted(found.items())[:${MAX_PACKAGES}])
sys.stdout.write("\\n" + json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "packages": found}))
`;

/** By name; an environment whose Python does not start is not among them. */
export async function probePythons(
  environments: EnvironmentsConfig,
  place: { readonly python: string; readonly env: Readonly<Record<string, string | undefined>> },
): Promise<Record<string, PythonInfo>> {
  const asked = Object.entries(environments.named).map(([name, config]) => {
    const start = pythonStart(config, { ...place, folders: [] });
    return { name, program: callableAs(config, place.python), start };
  });
  if (!Object.hasOwn(environments.named, "default")) {
    asked.push({ name: "default", program: place.python, start: { words: [place.python], env: place.env } });
  }
  const told = await Promise.all(
    asked.map(async ({ name, program, start }) => {
      const [command = place.python, ...args] = start.words;
      return { name, info: infoOf(await printed(command, [...args, "-c", PROBE], start.env), program) };
    }),
  );
  return Object.fromEntries(told.flatMap(({ name, info }) => (info === undefined ? [] : [[name, info]])));
}

/** The endpoint's own interpreter, where nobody waited for the list of its packages: what pickles need. */
export async function ownPython(python: string, version: string): Promise<PythonInfo> {
  const cloudpickle = await printed(python, ["-c", CLOUDPICKLE_PROBE]);
  return { version, program: python, ...(cloudpickle !== undefined && { cloudpickle }) };
}

/** The Python of the image that workers run in: the only one that they have, and none of the machine's. */
export async function probeImage(config: IsolationConfig): Promise<PythonInfo | undefined> {
  const { runner, image = "" } = config;
  return infoOf(await printedInImage(config, ["-c", PROBE]), `${runner} … ${image} python3`);
}

/** What a person types for this Python, after the modules and lines. */
function callableAs(
  { venv, conda, container, containerRuntime, python }: EnvironmentConfig,
  own: string,
): string {
  if (container !== undefined) return `${containerRuntime} … ${container} ${python ?? "python3"}`;
  if (venv !== undefined) return join(venv, "bin", python ?? "python");
  if (conda !== undefined) return `conda run -n ${conda} ${python ?? "python"}`;
  return python ?? own;
}

/** From what the probe printed last; lines of a user may have said something before. */
export function infoOf(text: string | undefined, program: string): PythonInfo | undefined {
  if (text === undefined || text.length > MAX_CHARS) return undefined;
  try {
    const told = JSON.parse(text.slice(text.lastIndexOf("\n") + 1)) as Omit<PythonInfo, "program">;
    const { version, packages = {} } = told;
    const cloudpickle = packages.cloudpickle;
    return { version, program, packages, ...(cloudpickle !== undefined && { cloudpickle }) };
  } catch {
    return undefined;
  }
}
