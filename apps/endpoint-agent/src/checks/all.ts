/** Which checks `enroll` and `doctor` make, in the order in which they are told. */
import type { StatePaths } from "../state/state-dir.js";
import {
  checkConfiguration,
  checkIdentity,
  checkJournal,
  checkLife,
  checkProgram,
  checkSurvival,
} from "./agent.js";
import type { Check, Environment } from "./check.js";
import { checkScratch, checkStateFolder } from "./disks.js";
import { checkGpus, checkPythons, checkSlurm } from "./programs.js";
import { checkService } from "./service.js";

export interface MachineToCheck {
  readonly serviceUrl: string;
  readonly stateDir: string;
  readonly python: string;
  readonly env: Environment;
}

/** Before there is an agent: whether there can be one here, and what it will find. */
export async function machineChecks({ serviceUrl, stateDir, python, env }: MachineToCheck): Promise<Check[]> {
  const [service, pythons, slurm, gpus] = await Promise.all([
    checkService(serviceUrl),
    checkPythons(python, env),
    checkSlurm(env),
    checkGpus(env),
  ]);
  const folder = await checkStateFolder(stateDir, slurm.state !== "skip");
  return [checkProgram(), ...service, pythons, slurm, gpus, ...folder, checkScratch(env)];
}

/** The same, and this agent itself. `serviceUrl` undefined: nothing is enrolled that would name one. */
export async function doctorChecks(
  machine: Omit<MachineToCheck, "serviceUrl"> & { readonly serviceUrl: string | undefined },
  paths: StatePaths,
): Promise<Check[]> {
  const { serviceUrl, ...rest } = machine;
  const own = [checkIdentity(paths), checkConfiguration(paths)];
  const unknown: Check = { name: "service", state: "skip", detail: "no service is named" };
  const around =
    serviceUrl === undefined
      ? [unknown, ...(await machineChecks({ ...rest, serviceUrl: "http://127.0.0.1:9" })).filter(isLocal)]
      : await machineChecks({ ...rest, serviceUrl });
  return [...own, ...around, checkJournal(paths), await checkLife(paths), checkSurvival(paths.root)];
}

const isLocal = ({ name }: Check): boolean => !["service", "link", "clock"].includes(name);
