/** What this machine has to bring a process back: asked of the programs themselves. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { userInfo } from "node:os";
import type { SurviveFacts } from "./choose.js";

/** Programs that hang (a bus that does not answer) are no help. */
const LIMIT_MS = 10_000;

export interface Ran {
  readonly ok: boolean;
  readonly stdout: string;
  readonly stderr: string;
  /** The program is not there. */
  readonly missing: boolean;
}

/** Runs a program to its end, without a shell. Never throws. */
export function runTool(program: string, args: readonly string[], input = ""): Ran {
  const done = spawnSync(program, args, { input, encoding: "utf8", timeout: LIMIT_MS });
  const missing = (done.error as NodeJS.ErrnoException | undefined)?.code === "ENOENT";
  return { ok: done.status === 0, stdout: done.stdout ?? "", stderr: done.stderr ?? "", missing };
}

export function surviveFacts(): SurviveFacts {
  return {
    systemd: runTool("systemctl", ["--user", "show-environment"]).ok,
    linger: hasLinger(),
    cron: cronState(),
    tmux: runTool("tmux", ["-V"]).ok,
  };
}

/** Undefined where logind does not tell. */
export function hasLinger(): boolean | undefined {
  const { ok, stdout } = runTool("loginctl", [
    "show-user",
    userInfo().username,
    "--property=Linger",
    "--value",
  ]);
  return ok ? stdout.trim() === "yes" : undefined;
}

function cronState(): SurviveFacts["cron"] {
  const { ok, missing, stderr } = runTool("crontab", ["-l"]);
  if (missing) return "missing";
  if (!ok && !/no crontab for/i.test(stderr)) return "denied";
  return isCronRunning() ? "there" : "idle";
}

/** A daemon of that name; where processes of others are hidden (hidepid), it counts as running. */
function isCronRunning(): boolean {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  let strangers = 0;
  for (const pid of pids) {
    try {
      const name = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
      if (/^(cron|crond|fcron|cronie|systemd-cron)$/.test(name)) return true;
      if (pid === "1") strangers++;
    } catch {
      // It has ended meanwhile.
    }
  }
  return strangers === 0;
}
