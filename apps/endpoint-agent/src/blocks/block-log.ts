/** What a block's nodes and their launcher print: one file for each block. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";

/** Enough for the last line of a traceback. */
const TAIL_BYTES = 300;

export function blockLog(logDir: string, name: string): string {
  return join(logDir, `${name}.log`);
}

/** The sentence, with the end of the log where there is one: mostly that is where the cause stands. */
export function withLastWords(sentence: string, logFile: string): string {
  const words = tailOf(logFile);
  return words === "" ? sentence : `${sentence}; its log ends: ${words}`;
}

function tailOf(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    return "";
  }
  try {
    const bytes = Buffer.alloc(TAIL_BYTES);
    const from = Math.max(0, fstatSync(fd).size - TAIL_BYTES);
    return bytes.toString("utf8", 0, readSync(fd, bytes, 0, TAIL_BYTES, from)).trim();
  } finally {
    closeSync(fd);
  }
}
