#!/usr/bin/env node
/**
 * The node program as a program of its own: what a block starts on each of its nodes. It loads no more than a node needs,
 * since all nodes of a cluster may start at once, from one shared file system. The single file, which is one program, has
 * it as the agent's command `node`.
 *
 *   main.js --parameters FILE
 */
import { parseArgs } from "node:util";
import { beginPrivately } from "@farloom/protocol/process";
import { runNodeProgram } from "./program.js";

beginPrivately();

function parametersFile(): string | undefined {
  try {
    return parseArgs({ options: { parameters: { type: "string" } } }).values.parameters;
  } catch {
    // As if it were not there.
    return undefined;
  }
}

runNodeProgram(parametersFile(), process.env).then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
