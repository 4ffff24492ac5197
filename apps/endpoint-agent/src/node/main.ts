#!/usr/bin/env node
/**
 * The node program as a program of its own: what a block starts on each of its nodes. It loads no more than a node needs,
 * since all nodes of a cluster may start at once, from one shared file system.
 *
 *   main.js --parameters FILE
 *
 * Exit codes: program.ts; 2 wrong usage.
 */
import { parseArgs } from "node:util";
import { pino } from "pino";
import { beginPrivately } from "../state/private.js";
import { runNode } from "./program.js";

async function main(): Promise<number> {
  beginPrivately();
  let parametersFile: string | undefined;
  try {
    const { values } = parseArgs({ options: { parameters: { type: "string" } } });
    parametersFile = values.parameters;
  } catch {
    // As if it were not there.
  }
  if (parametersFile === undefined) {
    process.stderr.write("the node program needs --parameters FILE; an agent's provider starts it\n");
    return 2;
  }
  const log = (level: string) =>
    pino({ level, base: { pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
  return runNode({ parametersFile, log, env: process.env });
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
