/**
 * On a machine that others use too: what a state folder must be like. Folder, keys and configuration belong to this user
 * or to root. Nobody else may write them or put others in their place, and nobody else reads keys. What is merely readable,
 * and this user's, is closed. (How every program of the agent begins there: `@farloom/protocol/process`.)
 */
import { chmodSync, lstatSync, realpathSync, type Stats, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { FarloomError } from "@farloom/protocol";
import type { StatePaths } from "./state-dir.js";

/** Refuses a state folder that somebody else has, reads or could replace. @throws FarloomError STATE_UNSAFE */
export function requirePrivateFolder(root: string): void {
  const link = lstatSync(root);
  if (link.isSymbolicLink()) requireOwner(root, link, "use a folder of your own with --state-dir");
  const stat = statSync(root);
  if (process.getuid && stat.uid !== process.getuid())
    throw unsafe(root, `it belongs to user ${stat.uid}`, "Use a folder of your own with --state-dir");
  if ((stat.mode & 0o077) !== 0)
    throw unsafe(
      root,
      `it has mode ${modeOf(stat)}, and others could read its key`,
      `Run: chmod 700 '${root}'`,
    );
  const parent = openParent(root);
  if (parent !== undefined)
    throw unsafe(
      root,
      `anybody may put another in its place, as all may write in ${parent}`,
      `Run: chmod go-w '${parent}' (or chmod +t), or use another --state-dir`,
    );
}

/** The same of the files that decide who the agent is and what it runs. @throws FarloomError STATE_UNSAFE */
export function requirePrivateFiles(paths: StatePaths): void {
  const blocks = join(paths.root, "blocks");
  for (const path of [paths.privateKey, `${paths.privateKey}.next`, join(blocks, "door.json")])
    requirePrivateFile(path, 0o077);
  for (const path of [paths.identity, paths.configFile, paths.invocations, join(blocks, "book.json")])
    requirePrivateFile(path, 0o022);
}

function requirePrivateFile(path: string, forbidden: number): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  requireOwner(path, stat, "put a file of your own in its place");
  if ((stat.mode & forbidden) !== 0) {
    const [may, cure] = forbidden === 0o077 ? ["read", "600"] : ["write", "go-w"];
    throw unsafe(path, `others can ${may} it: its mode is ${modeOf(stat)}`, `Run: chmod ${cure} '${path}'`);
  }
  if ((stat.mode & 0o077) !== 0 && stat.uid === process.getuid?.()) chmodSync(path, stat.mode & 0o700);
}

function requireOwner(path: string, stat: Stats, cure: string): void {
  if (isOthers(stat)) throw unsafe(path, `it belongs to user ${stat.uid}`, `Remove it, or ${cure}`);
}

/** Neither this user's nor root's. */
function isOthers({ uid }: Stats): boolean {
  return process.getuid !== undefined && uid !== process.getuid() && uid !== 0;
}

/** The nearest folder above in which others may rename what is ours; one with the sticky bit protects it. */
export function openParent(path: string): string | undefined {
  for (let at = dirname(realpathSync(path)); at !== dirname(at); at = dirname(at)) {
    const { mode } = statSync(at);
    if ((mode & 0o002) !== 0 && (mode & 0o1000) === 0) return at;
  }
  return undefined;
}

const modeOf = ({ mode }: Stats): string => (mode & 0o777).toString(8);

function unsafe(path: string, why: string, cure: string): FarloomError {
  return new FarloomError("STATE_UNSAFE", { path, why, cure });
}
