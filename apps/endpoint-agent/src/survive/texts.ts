/**
 * The texts with which an agent is brought back: the launcher, a systemd unit, lines of a crontab, tmux's arguments. Pure.
 *
 * 1. Everything else names the launcher alone: one file in the state folder knows how the agent is started, and with which
 *    environment, as cron and systemd start with nearly none.
 * 2. No path is read as anything but a path: quoted for the shell, for systemd (% \ " $) and for cron (%).
 */
import { createHash } from "node:crypto";

/** What the launcher hands on of the environment in which the agent was installed: where programs are, and the way out. */
export const KEPT_VARIABLES = [
  "PATH",
  "LD_LIBRARY_PATH",
  "HTTPS_PROXY",
  "HTTP_PROXY",
  "ALL_PROXY",
  "NO_PROXY",
  "https_proxy",
  "http_proxy",
  "all_proxy",
  "no_proxy",
  "NODE_EXTRA_CA_CERTS",
  "SSL_CERT_FILE",
  "SLURM_CONF",
  "MODULEPATH",
  "SCRATCH",
  "TMPDIR",
  "LANG",
] as const;

/** The agent's own settings are handed on too; the folder stands in the launcher itself. */
const AGENT_SETTING = /^FARLOOM_AGENT_(?!STATE_DIR$)[A-Z_]+$/;

/** Above this the log is set aside at a start, one generation. */
const MOST_LOG_KB = 16 * 1024;

/** Short and stable for a state folder: several agents of one user each have their own unit, lines and session. */
export function surviveId(stateDir: string): string {
  return createHash("sha256").update(stateDir).digest("hex").slice(0, 8);
}

export const unitName = (stateDir: string): string => `farloom-agent-${surviveId(stateDir)}.service`;
export const sessionName = (stateDir: string): string => `farloom-${surviveId(stateDir)}`;

/** One word for a POSIX shell. */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

export interface LaunchPlan {
  readonly stateDir: string;
  /** Program and arguments before the agent's command. */
  readonly program: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
}

/**
 * launch.sh. `serve` runs the agent here with its log, `keep` runs it again and again until it ends as it should, anything
 * else is a command of the agent's. Exit codes 2, 4 and 5 of the agent say that another start would end alike.
 */
export function launcherText({ stateDir, program, env }: LaunchPlan): string {
  const settings = Object.keys(env).filter((name) => AGENT_SETTING.test(name));
  const exports = [...KEPT_VARIABLES, ...settings.sort()].flatMap((name) =>
    env[name] ? [`export ${name}=${shellQuote(env[name])}`] : [],
  );
  const words = program.map(shellQuote).join(" ");
  return `#!/bin/sh
# How the agent of this folder is started. Written by 'farloom endpoint enroll'; 'farloom endpoint uninstall' removes it.
umask 077
# A core file would have the agent's key in it. A task may raise this for what it runs.
ulimit -S -c 0
cd /
${exports.join("\n")}
state=${shellQuote(stateDir)}
log=$state/agent.log

serve() {
  [ -z "$(find "$log" -size +${MOST_LOG_KB}k 2>/dev/null)" ] || mv -f "$log" "$log.1"
  ${words} run --state-dir "$state" >>"$log" 2>&1
}

case "$1" in
  serve)
    [ -z "$(find "$log" -size +${MOST_LOG_KB}k 2>/dev/null)" ] || mv -f "$log" "$log.1"
    exec ${words} run --state-dir "$state" >>"$log" 2>&1 ;;
  keep)
    while :; do
      serve
      code=$?
      case $code in 0 | 2 | 4 | 5) exit $code ;; esac
      sleep 5
    done ;;
  *)
    exec ${words} "$@" --state-dir "$state" ;;
esac
`;
}

/** The user unit. It runs until it is stopped on purpose: a stop leaves the file \`stopped\`, and then it does not start. */
export function unitText({
  stateDir,
  launcher,
  name,
}: {
  stateDir: string;
  launcher: string;
  name: string;
}): string {
  return `# Written by 'farloom endpoint enroll'; 'farloom endpoint uninstall' removes it.
[Unit]
Description=Farloom endpoint ${name.replace(/[^\w.-]/g, "_")}
ConditionPathExists=!${specifierEscaped(`${stateDir}/stopped`)}
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/sh ${systemdQuote(launcher)} serve
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 4 5
# Workers outlive their agent for a minute, so that a restart costs no task.
KillMode=process
TimeoutStopSec=60

[Install]
WantedBy=default.target
`;
}

/** A path where systemd reads the rest of the line as it is, but for its own %-specifiers. */
function specifierEscaped(text: string): string {
  return text.replaceAll("%", "%%");
}

/** One word of ExecStart. */
function systemdQuote(text: string): string {
  return `"${specifierEscaped(text).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("$", "$$$$")}"`;
}

/** Minutes between two looks of the watchdog: an agent that died is back within them. */
const WATCHDOG_MINUTES = 5;

/** The crontab with this folder's lines in it, once; other lines stay as they are. */
export function withCronLines(crontab: string, stateDir: string, launcher: string): string {
  const id = surviveId(stateDir);
  const start = `/bin/sh ${shellQuote(launcher).replaceAll("%", "\\%")} start --watch >/dev/null 2>&1`;
  const others = withoutCronLines(crontab, stateDir);
  const gap = others === "" || others.endsWith("\n") ? "" : "\n";
  return `${others}${gap}# farloom ${id}: the next two lines are of 'farloom endpoint enroll'
@reboot ${start} # farloom ${id}
*/${WATCHDOG_MINUTES} * * * * ${start} # farloom ${id}
`;
}

/** The crontab without this folder's lines. */
export function withoutCronLines(crontab: string, stateDir: string): string {
  const mark = `# farloom ${surviveId(stateDir)}`;
  const lines = crontab.split("\n").filter((line) => !line.includes(mark));
  return lines.join("\n");
}

/** tmux's arguments for a session of its own that keeps the agent running. */
export function tmuxArguments(stateDir: string, launcher: string): string[] {
  return ["new-session", "-d", "-s", sessionName(stateDir), `exec /bin/sh ${shellQuote(launcher)} keep`];
}
