/**
 * A function that wants isolation is not taken for an endpoint that runs at less (P36a). Asked of the row, and only for
 * such functions: what an agent said of itself changes with every connection, and nothing that is remembered follows that.
 */
import { FarloomError, isolationSuffices, keyToUuid } from "@farloom/protocol";
import type pg from "pg";
import type { FunctionRecord } from "../functions/registry.js";
import type { EndpointRecord } from "./registry.js";

/** Whether a function wants anything; if not, nobody is asked. */
export function wantsIsolation(fn: FunctionRecord): boolean {
  const { isolation = "none" } = fn.definition.env;
  return isolation !== "none";
}

/**
 * An endpoint whose agent has never connected takes the task: the agent itself answers for it.
 * @throws FarloomError ISOLATION_UNAVAILABLE
 */
export async function requireIsolation(
  pool: pg.Pool,
  endpoint: EndpointRecord,
  fns: readonly FunctionRecord[],
): Promise<void> {
  const wanting = fns.filter(wantsIsolation);
  if (wanting.length === 0) return;
  const { rows } = await pool.query<{ known: boolean; level: string | null }>({
    name: "endpoint-isolation",
    text: `SELECT agent_info IS NOT NULL AS known, agent_info -> 'isolation' ->> 'level' AS level FROM endpoint WHERE id = $1`,
    values: [keyToUuid(endpoint.key)],
  });
  if (!rows[0]?.known) return;
  const level = rows[0].level ?? "none";
  for (const fn of wanting) {
    const wanted = fn.definition.env.isolation!;
    if (isolationSuffices(level, wanted)) continue;
    throw new FarloomError("ISOLATION_UNAVAILABLE", {
      function: fn.ref,
      endpoint: endpoint.name,
      wanted,
      level,
    });
  }
}
