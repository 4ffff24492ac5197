/** A question on the terminal whose answer is not shown. */
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";

/** One line; empty where there is none. */
export async function askHidden(question: string): Promise<string> {
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  process.stderr.write(question);
  const lines = createInterface({ input: process.stdin, output: silent, terminal: true });
  try {
    for await (const line of lines) {
      process.stderr.write("\n");
      return line;
    }
  } finally {
    lines.close();
  }
  return "";
}
