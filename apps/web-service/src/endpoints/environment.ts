/**
 * Whether the endpoint's Python can run a function: compared when tasks are submitted, with what its agent said last (P35a),
 * so that every client hears the same, with the cure. Asked of the row, and only for functions that say what they need; what
 * was found to fit is remembered for a while, as batches of the same calls follow each other. What does not fit is asked
 * again every time: an agent that is started again with the package is believed at once.
 *
 * Bound: MOST_REMEMBERED pairs of endpoint and function.
 */
import { FarloomError, keyToUuid, type PythonInfo } from "@farloom/protocol";
import type pg from "pg";
import type { FunctionRecord } from "../functions/registry.js";
import { parseRequirement, satisfies } from "../functions/requirements.js";
import type { EndpointRecord } from "./registry.js";

/** A Python that has changed meanwhile is the worker's to tell, as it would be a moment after the comparison. */
const REMEMBERED_MS = 10_000;
const MOST_REMEMBERED = 10_000;

interface Told {
  /** Of where tasks run, and not of the agent's machine where nodes are others. */
  readonly ofNodes: boolean;
  readonly python: PythonInfo | null;
  readonly names: readonly string[] | null;
}

export class Environments {
  readonly #pool: pg.Pool;
  readonly #fits = new Map<string, number>();

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** Whether nobody need be asked: the function needs nothing, or fitted a moment ago. */
  isSure(endpointKey: string, fn: FunctionRecord): boolean {
    return !needsPython(fn) || (this.#fits.get(endpointKey + fn.id) ?? 0) > performance.now();
  }

  /** @throws FarloomError ENVIRONMENT_MISMATCH with the cure */
  async require(endpoint: EndpointRecord, fns: readonly FunctionRecord[]): Promise<void> {
    for (const fn of fns) {
      if (this.isSure(endpoint.key, fn)) continue;
      const detail = mismatch(fn, await this.#told(endpoint, environmentOf(fn)));
      if (detail !== undefined)
        throw new FarloomError("ENVIRONMENT_MISMATCH", { endpoint: endpoint.name, detail });
      if (this.#fits.size >= MOST_REMEMBERED) this.#fits.clear();
      this.#fits.set(endpoint.key + fn.id, performance.now() + REMEMBERED_MS);
    }
  }

  async #told(endpoint: EndpointRecord, environment: string): Promise<Told | undefined> {
    const { rows } = await this.#pool.query<Told>({
      name: "endpoint-python",
      text: `SELECT coalesce(agent_info ->> 'pythonsOf' = 'nodes', false) AS "ofNodes", agent_info -> 'pythons' -> $2 AS python,
               (SELECT array_agg(name ORDER BY name) FROM jsonb_object_keys(agent_info -> 'pythons') AS name) AS names
             FROM endpoint WHERE id = $1 AND jsonb_typeof(agent_info -> 'pythons') = 'object'`,
      values: [keyToUuid(endpoint.key), environment],
    });
    return rows[0];
  }
}

function needsPython({ definition: { runtime, format, env } }: FunctionRecord): boolean {
  if (runtime === "node") return false;
  return (env.requires?.length ?? 0) > 0 || env.interpreter !== undefined || format === "pickle";
}

const environmentOf = (fn: FunctionRecord): string => fn.definition.env.interpreter ?? "default";

/** Why it cannot run there, and what to do; undefined where it can, or where nobody knows. */
function mismatch(fn: FunctionRecord, told: Told | undefined): string | undefined {
  // An agent that has never connected, or tells nothing of the machines that tasks run on: the worker knows.
  if (!told?.ofNodes) return undefined;
  const environment = environmentOf(fn);
  const { python, names } = told;
  if (python === null) {
    // A path or `conda:NAME` is the function's own.
    if (environment === "default" || /[/:]/.test(environment)) return undefined;
    return `there is no environment ${environment} whose Python starts; there are ${(names ?? []).join(", ") || "none"}. Name one of these, or add [environments.${environment}] to agent.toml there (and start the agent again)`;
  }
  return lacking(fn, python) ?? unreadable(fn, python);
}

function lacking({ ref, definition }: FunctionRecord, python: PythonInfo): string | undefined {
  const { packages, program, version } = python;
  const { requires = [] } = definition.env;
  if (packages === undefined) return undefined;
  const missing: string[] = [];
  for (const text of requires) {
    const requirement = parseRequirement(text);
    if (requirement === undefined) continue;
    const there = Object.hasOwn(packages, requirement.name) ? packages[requirement.name] : undefined;
    if (there === undefined) missing.push(`${text}, which is not there`);
    else if (!satisfies(there, requirement)) missing.push(`${text}, there is ${there}`);
  }
  if (missing.length === 0) return undefined;
  const environment = definition.env.interpreter ?? "default";
  const all = requires.map((text) => `'${text}'`).join(" ");
  return `${ref} requires ${missing.join("; ")} in its environment ${environment} (${program}, Python ${version}). On that machine: ${program} -m pip install ${all} (and start the agent again), or name another environment`;
}

/** A pickle holds bytecode, which is of one Python minor, and refers to cloudpickle. */
function unreadable({ ref, definition }: FunctionRecord, python: PythonInfo): string | undefined {
  if (definition.format !== "pickle") return undefined;
  const { version, program, cloudpickle } = python;
  const minor = version.split(".").slice(0, 2).join(".");
  const wanted = definition.env.python;
  if (wanted !== undefined && wanted !== minor)
    return `${ref} is a pickle of Python ${wanted}, and ${program} there is Python ${version}. Start the agent with a Python ${wanted} (--python), or register the function from Python ${minor}, or as source, which any Python runs`;
  if (cloudpickle === undefined)
    return `${ref} is a pickle of cloudpickle, which ${program} there has not. On that machine: ${program} -m pip install cloudpickle (and start the agent again)`;
  return undefined;
}
