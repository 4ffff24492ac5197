/** The files of an agent's audit: `00000001.jsonl` and so on, a record on each line. */
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { AUDIT_GENESIS, agentAuditHash, parseAgentAuditLine } from "@farloom/protocol";

const NAME = /^(\d{8})\.jsonl$/;
/** Read at once from the end of a file. */
const PIECE_BYTES = 64 * 1024;
const NEWLINE = 10;

export interface AuditFile {
  readonly number: number;
  readonly path: string;
}

export function auditFileName(dir: string, number: number): string {
  return join(dir, `${String(number).padStart(8, "0")}.jsonl`);
}

/** In the order in which they were written. */
export function auditFiles(dir: string): AuditFile[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .flatMap((name) => {
      const number = Number(NAME.exec(name)?.[1] ?? 0);
      return number > 0 ? [{ number, path: join(dir, name) }] : [];
    })
    .sort((a, b) => a.number - b.number);
}

export interface AuditTail {
  /** The last record that is whole. */
  readonly head: { readonly seq: number; readonly hash: string };
  /** The number of the last file. */
  readonly file: number;
  /** What was cut off its end, in bytes, as a crash had torn it. */
  readonly tornBytes?: number;
  /** Its last line is no record of ours: the chain goes on behind the last one that is. */
  readonly isDamaged?: boolean;
}

/** Where the chain ends, and how. Cuts a torn record off the last file, or reads file `number` as it is. */
export function readTail(dir: string, number?: number): AuditTail {
  const files = auditFiles(dir).filter((file) => number === undefined || file.number <= number);
  let tornBytes: number | undefined;
  let isDamaged = false;
  for (const [i, { path }] of [...files.entries()].reverse()) {
    const isLast = i === files.length - 1;
    const fd = openSync(path, isLast && number === undefined ? "r+" : "r");
    try {
      let endBytes = fstatSync(fd).size;
      const whole = lastNewline(fd, endBytes) + 1;
      if (whole < endBytes && isLast && number === undefined) {
        tornBytes = endBytes - whole;
        ftruncateSync(fd, whole);
      }
      for (endBytes = whole; endBytes > 0; isDamaged = true) {
        const begin = lastNewline(fd, endBytes - 1) + 1;
        const record = parseAgentAuditLine(read(fd, begin, endBytes - 1).toString("utf8"));
        if (record !== undefined && agentAuditHash(record) === record.hash) {
          const head = { seq: record.seq, hash: record.hash };
          return {
            head,
            file: files.at(-1)!.number,
            ...(tornBytes && { tornBytes }),
            ...(isDamaged && { isDamaged }),
          };
        }
        endBytes = begin;
      }
    } finally {
      closeSync(fd);
    }
  }
  const head = { seq: 0, hash: AUDIT_GENESIS };
  return {
    head,
    file: files.at(-1)?.number ?? 1,
    ...(tornBytes && { tornBytes }),
    ...(isDamaged && { isDamaged }),
  };
}

/** Where the last line feed before `end` is; -1 where there is none. */
function lastNewline(fd: number, end: number): number {
  for (let to = end; to > 0; to -= PIECE_BYTES) {
    const from = Math.max(0, to - PIECE_BYTES);
    const at = read(fd, from, to).lastIndexOf(NEWLINE);
    if (at >= 0) return from + at;
  }
  return -1;
}

function read(fd: number, from: number, to: number): Buffer {
  const bytes = Buffer.alloc(to - from);
  let at = 0;
  while (at < bytes.length) {
    const got = readSync(fd, bytes, at, bytes.length - at, from + at);
    if (got === 0) return bytes.subarray(0, at);
    at += got;
  }
  return bytes;
}
