/** Whether an agent's audit is whole: over all files of its folder, or over one of them. */
import { createReadStream, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { type AgentAuditRecord, AgentAuditVerifier } from "@farloom/protocol";
import { auditFiles } from "./audit-files.js";

export interface AuditVerdict {
  readonly whole: boolean;
  /** Where it breaks, and in which file. */
  readonly why?: string;
  readonly file?: string;
  /** `number:hash` of the last record that holds. */
  readonly head: string;
  /** The number of the first record that is there. */
  readonly from: number;
  /** Bytes of a last record that is not whole, as a crash leaves it: no tampering. */
  readonly cutBytes?: number;
}

export interface VerifyOptions {
  /** A head of before, `number:hash`: the chain must still hold it. */
  readonly head?: string | undefined;
  readonly onRecord?: (record: AgentAuditRecord) => void;
}

/** `path`: the folder, or one file, which may begin anywhere. Rejects where it cannot be read. */
export async function verifyAudit(path: string, options: VerifyOptions = {}): Promise<AuditVerdict> {
  const isFolder = statSync(path).isDirectory();
  const files = isFolder ? auditFiles(path).map((file) => file.path) : [path];
  const [seq = "0", hash] = options.head?.split(":") ?? [];
  const verifier = new AgentAuditVerifier();
  const verdict = (more: { why?: string; file?: string; cutBytes?: number }): AuditVerdict => ({
    whole: more.why === undefined,
    ...more,
    head: `${verifier.head.seq}:${verifier.head.hash}`,
    from: verifier.from,
  });
  let cutBytes: number | undefined;
  for (const file of files) {
    const isLast = file === files.at(-1);
    for await (const { text, isEnded } of linesOf(file)) {
      if (!isEnded && isLast) {
        cutBytes = Buffer.byteLength(text);
        continue;
      }
      if (!isEnded)
        return verdict({ why: `the line after entry ${verifier.head.seq} was cut, and more follows`, file });
      const added = verifier.add(text);
      if ("why" in added) return verdict({ why: added.why, file });
      const { record } = added;
      if (record.seq === Number(seq) && record.hash !== hash)
        return verdict({ why: `entry ${seq} is not the one of before: the chain was made anew`, file });
      options.onRecord?.(record);
    }
  }
  const more = cutBytes === undefined ? {} : { cutBytes };
  if (isFolder && !verifier.isFromBeginning)
    return verdict({
      why: `what came before entry ${verifier.from} is missing, and nothing says that it was dropped`,
      ...more,
    });
  if (verifier.head.seq < Number(seq))
    return verdict({ why: `it ends before entry ${seq}: its end was cut off`, ...more });
  return verdict(more);
}

/** Lines, and whether a line feed ends each. */
async function* linesOf(path: string): AsyncGenerator<{ text: string; isEnded: boolean }> {
  const { size } = statSync(path);
  if (size === 0) return;
  let endsWell = false;
  const stream = createReadStream(path, { end: size - 1 });
  stream.on("data", (chunk) => {
    endsWell = (chunk as Buffer).at(-1) === 10;
  });
  let last: string | undefined;
  // A carriage return is no end of a line here: it would be a change.
  for await (const line of createInterface({ input: stream, crlfDelay: 0 })) {
    if (last !== undefined) yield { text: last, isEnded: true };
    last = line;
  }
  if (last !== undefined) yield { text: last, isEnded: endsWell };
}
