/**
 * Sees to it that the agent of a state folder comes back, and undoes that again.
 *
 * In the state folder: `launch.sh` (how it is started), `survive.json` (what was installed, so that exactly that can be
 * undone), and `stopped`, which a stop on purpose leaves: neither cron nor systemd starts the agent while it is there.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, userInfo } from "node:os";
import { join } from "node:path";
import { type Choice, chooseMethod, forcedMethod, type Method, type SurviveFacts } from "./choose.js";
import { hasLinger, runTool, surviveFacts } from "./facts.js";
import {
  launcherText,
  sessionName,
  tmuxArguments,
  unitName,
  unitText,
  withCronLines,
  withoutCronLines,
} from "./texts.js";

/** survive.json. */
export interface Installed {
  readonly method: Method;
  readonly why: string;
  /** This switched lingering on, so an uninstall switches it off. */
  readonly enabledLinger: boolean;
}

export interface InstallOptions {
  readonly stateDir: string;
  readonly name: string;
  readonly program: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Absent: the best there is. */
  readonly method?: Method | undefined;
}

const recordFile = (stateDir: string): string => join(stateDir, "survive.json");
export const launcherFile = (stateDir: string): string => join(stateDir, "launch.sh");
const stoppedFile = (stateDir: string): string => join(stateDir, "stopped");

/** Installs; what was installed before is undone first. Throws an Error where what was asked for cannot be had. */
export function installSurvival(options: InstallOptions): Choice {
  const { stateDir, name, method, program, env } = options;
  let facts = surviveFacts();
  // Whether somebody may linger without an admin is the site's policy; asking costs nothing.
  const wantsLinger =
    (method === undefined || method === "systemd") && facts.systemd && facts.linger === false;
  const enabledLinger = wantsLinger && runTool("loginctl", ["--no-ask-password", "enable-linger"]).ok;
  if (enabledLinger) facts = { ...facts, linger: hasLinger() } satisfies SurviveFacts;
  const choice = method === undefined ? chooseMethod(facts) : forcedMethod(method, facts);
  if ("refused" in choice) throw new Error(`--survive ${method}: ${choice.refused}`);
  undoSurvival(stateDir);
  const launcher = launcherFile(stateDir);
  writeFileSync(launcher, launcherText({ stateDir, program, env }), { mode: 0o700 });
  chmodSync(launcher, 0o700);
  if (choice.method === "systemd") {
    mkdirSync(unitFolder(), { recursive: true });
    writeFileSync(join(unitFolder(), unitName(stateDir)), unitText({ stateDir, launcher, name }));
    must("systemctl", ["--user", "daemon-reload"]);
    must("systemctl", ["--user", "enable", unitName(stateDir)]);
  }
  if (choice.method === "cron") writeCrontab(withCronLines(readCrontab(), stateDir, launcher));
  const record: Installed = { method: choice.method, why: choice.why, enabledLinger };
  writeFileSync(recordFile(stateDir), `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  return choice;
}

/** Undoes what was installed for this folder; what it was, or undefined where nothing was. The agent itself goes on. */
export function undoSurvival(stateDir: string): Installed | undefined {
  const before = installedSurvival(stateDir);
  if (before === undefined) return undefined;
  switch (before.method) {
    case "systemd":
      // Disabled and not stopped: a stop is the caller's, who may want to drain.
      runTool("systemctl", ["--user", "disable", unitName(stateDir)]);
      rmSync(join(unitFolder(), unitName(stateDir)), { force: true });
      runTool("systemctl", ["--user", "daemon-reload"]);
      break;
    case "cron":
      writeCrontab(withoutCronLines(readCrontab(), stateDir));
      break;
    case "tmux":
    case "none":
      break;
  }
  if (before.enabledLinger) runTool("loginctl", ["--no-ask-password", "disable-linger"]);
  for (const file of [launcherFile(stateDir), recordFile(stateDir)]) rmSync(file, { force: true });
  return before;
}

/** What is installed for this folder, by its record. */
export function installedSurvival(stateDir: string): Installed | undefined {
  try {
    return JSON.parse(readFileSync(recordFile(stateDir), "utf8")) as Installed;
  } catch {
    return undefined;
  }
}

/** Why what was installed is not there any more (somebody edited the crontab, a unit was removed), or undefined. */
export function brokenSurvival(stateDir: string, installed: Installed): string | undefined {
  if (installed.method !== "none" && !existsSync(launcherFile(stateDir)))
    return "launch.sh is gone from the state folder";
  if (
    installed.method === "systemd" &&
    !runTool("systemctl", ["--user", "is-enabled", unitName(stateDir)]).ok
  )
    return `${unitName(stateDir)} is not enabled`;
  if (
    installed.method === "cron" &&
    readCrontab() !== withCronLines(readCrontab(), stateDir, launcherFile(stateDir))
  )
    return "the lines are not in the crontab";
  return undefined;
}

/** Starts the agent by what was installed; false where that starts nothing, and the caller shall do it itself. */
export function startInstalled(stateDir: string): boolean {
  const method = installedSurvival(stateDir)?.method;
  if (method === "systemd") {
    must("systemctl", ["--user", "start", unitName(stateDir)]);
    return true;
  }
  if (method !== "tmux") return false;
  // A session whose agent ended is over too; one that waits before its next try is replaced.
  runTool("tmux", ["kill-session", "-t", `=${sessionName(stateDir)}`]);
  must("tmux", tmuxArguments(stateDir, launcherFile(stateDir)));
  return true;
}

export function isStoppedOnPurpose(stateDir: string): boolean {
  return existsSync(stoppedFile(stateDir));
}

export function markStopped(stateDir: string, isStopped: boolean): void {
  if (isStopped) writeFileSync(stoppedFile(stateDir), "", { mode: 0o600 });
  else rmSync(stoppedFile(stateDir), { force: true });
}

function unitFolder(): string {
  return join(process.env.XDG_CONFIG_HOME || join(homedir(), ".config"), "systemd", "user");
}

function readCrontab(): string {
  const { ok, stdout } = runTool("crontab", ["-l"]);
  return ok ? stdout : "";
}

/** An empty one is removed: cron then has nothing of this user. */
function writeCrontab(text: string): void {
  if (text.trim() === "") runTool("crontab", ["-r"]);
  else must("crontab", ["-"], text);
}

function must(program: string, args: readonly string[], input = ""): void {
  const { ok, stderr, missing } = runTool(program, args, input);
  if (ok) return;
  const words = missing ? "is not installed" : `failed: ${stderr.trim().slice(-500)}`;
  throw new Error(
    `${program} ${args[0] === "--user" ? args[1] : args[0]} ${words} (user ${userInfo().username})`,
  );
}
