/**
 * What ssh runs on a host of a block: always these bytes. ssh hands its command to the login shell there, so nothing that
 * varies may stand in it: that comes over standard input.
 *
 * 1. Standard input: the number of words of the node program, each on a line, the size of the parameters, the parameters.
 *    It then stays open; its end is the end of the block, whatever ended it: a cancel, the agent's death, a lost link.
 * 2. Standard output: one line, once the node program runs. What that prints goes to standard error.
 * 3. The parameters lie in a folder that nobody else can read, and go with the block.
 *
 * No single quote, no !, no backslash and no line break stand in it, so that sh, bash, zsh, fish and csh read it alike.
 */

/** How a host says that the node program runs. */
export const STARTED = "farloom-started";

/** Between SIGTERM and SIGKILL, in steps of a second. */
const GRACE_S = 10;

const READ_COMMAND =
  'IFS= read -r count || exit 70; set --; while [ "$count" -gt 0 ]; do IFS= read -r word || exit 70; set -- "$@" "$word"; count=$((count - 1)); done';
const READ_PARAMETERS =
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it is the shell's.
  'IFS= read -r size || exit 70; dir=$(mktemp -d "${TMPDIR:-/tmp}/farloom-XXXXXXXX") || exit 70; head -c "$size" > "$dir/parameters" || exit 70';
const START = `"$@" "$dir/parameters" </dev/null >&2 3<&- & child=$!; echo ${STARTED}`;
/** Reads until the end of standard input, which comes with the end of the block. */
const WATCH = `{ while IFS= read -r line; do :; done; kill -TERM "$child"; left=${GRACE_S}; while [ "$left" -gt 0 ] && kill -0 "$child"; do sleep 1; left=$((left - 1)); done; kill -KILL "$child"; } <&3 >/dev/null 2>&1 & watcher=$!`;
const END = 'wait "$child"; status=$?; kill "$watcher" 2>/dev/null; rm -rf "$dir"; exit "$status"';

const SCRIPT = ["umask 077", "exec 3<&0", READ_COMMAND, READ_PARAMETERS, START, WATCH, END].join("; ");
export const REMOTE_COMMAND = `exec /bin/sh -c '${SCRIPT}'`;

/** What REMOTE_COMMAND reads first. Throws where a word cannot stand on a line. */
export function remoteInput(command: readonly string[], parameters: Buffer): Buffer {
  const odd = command.find((word) => /[\n\0]/.test(word));
  if (odd !== undefined) throw new Error(`${JSON.stringify(odd)} cannot be a word of a node's command`);
  const head = [command.length, ...command, parameters.length].map((line) => `${line}\n`).join("");
  return Buffer.concat([Buffer.from(head), parameters]);
}
