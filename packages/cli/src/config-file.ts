/** Writes the configuration file: whole or not at all, and never readable by others, as it holds a key. */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { ConfigFile } from "@farloom/sdk";

export function saveConfig(path: string, config: ConfigFile): void {
  writeWhole(path, `${JSON.stringify(config, null, 2)}\n`);
}

/** A file that appears whole, for its owner alone. */
export function writeWhole(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const aside = `${path}.${process.pid}.new`;
  writeFileSync(aside, text, { mode: 0o600, flush: true });
  renameSync(aside, path);
}
