/**
 * `setup`, which `farloom endpoint enroll` is: checks the machine, makes it the endpoint that a code is for, and sees to
 * it that the agent comes back. On a folder that is enrolled already, and without a code, it checks and installs anew.
 */

import { machineChecks } from "../checks/all.js";
import { type Check, checkLines, isFailed } from "../checks/check.js";
import { enroll } from "../enrolment.js";
import { HttpFailure } from "../http.js";
import { type Identity, readIdentity } from "../state/identity.js";
import { openStateDir } from "../state/state-dir.js";
import type { Choice, Method } from "../survive/choose.js";
import { installSurvival, markStopped } from "../survive/install.js";
import { enforceFromNowOn } from "../trust/command.js";
import { startAndWait } from "./life.js";
import {
  CONFLICT,
  CommandError,
  DONE,
  FAILED,
  ownProgram,
  type Place,
  REFUSED,
  runningPid,
  UNREACHABLE,
} from "./place.js";

export interface SetupOptions {
  readonly serviceUrl: string;
  /** Absent: the folder must be enrolled already. */
  readonly code: string | undefined;
  readonly name: string | undefined;
  readonly python: string;
  readonly skipChecks: boolean;
  /** Others will use it: from now on it runs only what keys of its trust file have signed. */
  readonly isShared: boolean;
  /** Absent: the best there is. */
  readonly survive: Method | undefined;
}

export async function setup(place: Place, options: SetupOptions): Promise<number> {
  const { paths, env } = place;
  const { serviceUrl, python, code, survive } = options;
  const before = readIdentity(paths);
  if (before !== undefined && code !== undefined)
    throw new CommandError(
      `${paths.root} is enrolled already, as endpoint ${before.name} of ${before.serviceUrl}: use another --state-dir, or give no code to check and install it anew`,
      CONFLICT,
    );
  let checks: Check[] = [];
  if (!options.skipChecks) {
    checks = await machineChecks({ serviceUrl, stateDir: paths.root, python, env });
    if (!place.json) place.say(checkLines(checks).trimEnd());
    if (isFailed(checks)) {
      place.result(
        { checks },
        "\nA check failed: nothing was changed, and the code is good for another try.",
      );
      return checks.some((one) => one.name === "service" && one.state === "failed") ? UNREACHABLE : FAILED;
    }
  }
  const identity = before ?? (await enrolled(place, options));
  if (options.isShared) enforceFromNowOn(paths.trustFile);
  const choice = survival(place, identity, survive);
  const isRunning = runningPid(paths) !== undefined;
  const started = choice.method === "none" || isRunning ? undefined : await begin(place);
  place.result(
    { ...identity, stateDir: paths.root, checks, survive: choice, started },
    told(identity, choice, started),
  );
  return DONE;
}

async function enrolled({ paths }: Place, { serviceUrl, code, name }: SetupOptions): Promise<Identity> {
  if (code === undefined)
    throw new CommandError(
      "no code: put it into FARLOOM_ENROLMENT_CODE, or give --code-file FILE (- for standard input)",
      2,
    );
  try {
    return await enroll({ serviceUrl, code, stateDir: paths.root, ...(name === undefined ? {} : { name }) });
  } catch (error) {
    if (!(error instanceof HttpFailure)) throw error;
    const exitCode = error.status === 0 ? UNREACHABLE : error.status === 401 ? REFUSED : FAILED;
    throw new CommandError(error.message, exitCode);
  }
}

/** What was asked for must be had; the best there is may be nothing. */
function survival({ paths, env }: Place, { name }: Identity, method: Method | undefined): Choice {
  openStateDir(paths.root);
  return installSurvival({ stateDir: paths.root, name, program: ownProgram(), env, method });
}

async function begin(place: Place): Promise<{ pid: number; connected: boolean }> {
  markStopped(place.paths.root, false);
  const { pid, connected } = await startAndWait(place);
  return { pid, connected };
}

function told(
  { name }: Identity,
  { method, why, advice, passedOver }: Choice,
  started: { pid: number; connected: boolean } | undefined,
): string {
  const lines = [
    `\nThis machine is endpoint ${name}.`,
    `It is kept by ${why}.`,
    ...passedOver.map((one) => `  not ${one.method}: ${one.why}`),
    ...(advice === undefined ? [] : [`  → ${advice}`]),
  ];
  if (method === "none") lines[1] = "Start it: farloom endpoint start";
  if (started !== undefined)
    lines.push(
      started.connected ? `It is connected (process ${started.pid}).` : "It runs, and is not connected yet.",
    );
  return lines.join("\n");
}
