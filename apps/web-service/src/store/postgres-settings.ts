// How the embedded PostgreSQL is tuned: for a stream of multi-row INSERTs on a small machine, with every
// durability setting at its default (durability.ts checks that). Written to farloom.conf in the data directory
// at each start and included by postgresql.conf, so that ALTER SYSTEM still wins over it.

/** PostgreSQL settings by name, each value as it stands in postgresql.conf, unquoted. */
export type PostgresSettings = Readonly<Record<string, string | number>>;

export const TUNED_SETTINGS: PostgresSettings = {
  max_connections: 60,
  shared_buffers: "256MB",
  // The hot statements sort and hash little; 60 connections with more would be felt on a laptop.
  work_mem: "8MB",
  maintenance_work_mem: "128MB",
  // Checkpoints are what costs a stream of inserts: after each, every page touched is written to the WAL whole.
  checkpoint_timeout: "15min",
  max_wal_size: "4GB",
  // Segments kept for reuse: a recycled one needs no new blocks from the file system.
  min_wal_size: "512MB",
  wal_buffers: "16MB",
  // A hot statement takes about a millisecond; compiling it takes tens.
  jit: "off",
  // Logs hold no data of users: neither the statement nor the DETAIL line with the failing row.
  log_error_verbosity: "terse",
  log_min_error_statement: "panic",
  log_checkpoints: "off",
};

/** farloom.conf as text. */
export function renderSettings(settings: PostgresSettings): string {
  const lines = Object.entries(settings).map(
    ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'`,
  );
  return [
    "# Written by Farloom at every start; change settings with ALTER SYSTEM, which wins over these.",
    ...lines,
    "",
  ].join("\n");
}
