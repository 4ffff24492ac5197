/**
 * The judge: histories and evidence in, violations and counts out. It runs after everything else has ended, knows
 * nothing of Farloom's code, and asks nobody.
 */
import { join } from "node:path";
import { readEvidence, readHistories, readRecords } from "../record.mjs";
import { Index } from "./history-index.mjs";
import { RULES } from "./rules.mjs";

/** Calls that end well unless something breaks them. */
const ORDINARY = new Set(["batch", "single", "sleep100", "large", "retries", "delay", "rest", "rest-batch"]);

/**
 * Below this a run says nothing: a fabric in which everything failed breaks no rule.
 * @typedef {object} Floor
 * @property {number} [acknowledged] tasks at least
 * @property {number} [succeeded] share of the ordinary ones
 * @property {readonly string[]} [recipes] of each at least one was acknowledged
 * @property {number} [faults]
 * @property {number} [kinds]
 */
/** @type {Floor} */
export const DEFAULT_FLOOR = { acknowledged: 1, succeeded: 0.9 };

/** @typedef {{rule: string, task?: string | undefined, nonce?: string | undefined, text: string}} Violation */

/** @param {{floor?: Floor}} [options] */
export function checkFolder(folder, options = {}) {
  const input = {
    histories: readHistories(folder),
    evidence: readEvidence(folder),
    run: readRecords(join(folder, "run.jsonl")),
  };
  return check(input, options);
}

/**
 * @param {{histories: any[], evidence: import("../record.mjs").Trace[], run?: any[]}} input
 * @param {{floor?: Floor}} [options]
 */
export function check(input, { floor = DEFAULT_FLOOR } = {}) {
  const index = new Index(input);
  /** @type {Violation[]} */
  const violations = [];
  for (const [rule, find] of Object.entries(RULES)) {
    for (const finding of find(index)) violations.push({ rule, ...finding });
  }
  const counts = countsOf(index, input);
  return { violations, counts, missed: floorMissed(counts, floor) };
}

/** @param {Index} index */
function countsOf(index, { evidence, run = [] }) {
  const states = {};
  const modes = {};
  const recipes = {};
  let acknowledged = 0;
  let ordinary = 0;
  let succeeded = 0;
  for (const { acked, told, submit } of index.tasks.values()) {
    if (acked.length === 0) continue;
    acknowledged++;
    const state = told[0]?.state ?? "(none)";
    const end =
      state === "SUCCEEDED" || state === "CANCELLED" ? state : `${state} ${told[0]?.reason ?? ""}`.trim();
    states[end] = (states[end] ?? 0) + 1;
    if (submit === undefined) continue;
    recipes[submit.recipe] = (recipes[submit.recipe] ?? 0) + 1;
    if (state === "SUCCEEDED") modes[submit.mode] = (modes[submit.mode] ?? 0) + 1;
    if (!ORDINARY.has(submit.recipe)) continue;
    ordinary++;
    if (state === "SUCCEEDED") succeeded++;
  }
  const faults = run.filter(({ ev }) => ev === "fault");
  return {
    submitted: index.submits.size,
    acknowledged,
    refused: index.refused.size,
    ordinary,
    succeeded,
    states,
    modes,
    recipes,
    starts: evidence.filter(({ what }) => what === "start").length,
    traces: evidence.length,
    faults: faults.length,
    kinds: new Set(faults.map(({ kind }) => kind)).size,
  };
}

/** What of the floor was missed, in words. */
function floorMissed(counts, floor) {
  const missed = [];
  const least = (what, has, wanted) => {
    if (wanted !== undefined && !(has >= wanted)) missed.push(`${what}: ${has}, at least ${wanted}`);
  };
  least("tasks acknowledged", counts.acknowledged, floor.acknowledged);
  if (counts.ordinary > 0)
    least("share that succeeded", Number((counts.succeeded / counts.ordinary).toFixed(4)), floor.succeeded);
  least("faults", counts.faults, floor.faults);
  least("kinds of faults", counts.kinds, floor.kinds);
  for (const recipe of floor.recipes ?? []) least(`calls of ${recipe}`, counts.recipes[recipe] ?? 0, 1);
  for (const mode of floor.acknowledged > 100 ? ["at_most_once", "at_least_once"] : [])
    least(`${mode} that succeeded`, counts.modes[mode] ?? 0, 1);
  return missed;
}
