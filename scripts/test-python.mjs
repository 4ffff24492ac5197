#!/usr/bin/env node
/**
 * `npm run test:python`: the Python SDK alone: ruff, mypy and pytest against a real service and agent.
 *
 * The last line on stdout is `N passed, N failed, N skipped`, as that of `npm test`, of which this is a part. Arguments
 * after `--` are pytest's: npm run test:python -- python/tests/test_link.py -x
 */
import { prepare } from "./lib/prepare.mjs";
import { say, sayFailure, step } from "./lib/terminal.mjs";
import { addCounts, NO_COUNTS, pythonSdk } from "./lib/test-parts.mjs";

let counts = NO_COUNTS;
const complaints = [];
const notes = [];

try {
  await prepare();
  const outcome = await pythonSdk(step, { filters: process.argv.slice(2) });
  counts = addCounts(counts, outcome.counts);
  complaints.push(...outcome.complaints);
  notes.push(...outcome.notes);
} catch (error) {
  sayFailure(error);
  complaints.push(error.message);
}

say();
for (const note of notes) say(`note: ${note}`);
for (const complaint of complaints) say(`failed: ${complaint}`);
const failed = counts.failed + complaints.length;
process.exitCode = failed > 0 ? 1 : 0;
say(`${counts.passed} passed, ${failed} failed, ${counts.skipped} skipped`);
