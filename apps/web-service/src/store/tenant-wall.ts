/**
 * Whether the wall between people stands, and what is needed for it: the tenants' role may do what is listed here and
 * nothing else, and PostgreSQL binds it to one person's rows; the road's role is not bound, as its statements are about
 * many people's tasks at once.
 */
import pg from "pg";
import type { Logger } from "pino";

/** Of a task everything but its arguments and options: nobody is shown them. */
const TASK_COLUMNS = [
  "id",
  "seq",
  "owner_id",
  "endpoint_id",
  "function_key",
  "group_id",
  "attempt",
  "submitted_at",
  "not_before",
  "cancel_requested_at",
  "started_at",
] as const;

/** Of a secret everything but its value, sealed as it is. */
const SECRET_COLUMNS = ["owner_id", "name", "endpoints", "created_at", "updated_at", "last_used_at"] as const;
/** What is told of API keys, logins and endpoints: no hash of a secret, and no code. */
const KEY_COLUMNS = [
  "id",
  "owner_id",
  "label",
  "scopes",
  "only_endpoints",
  "only_functions",
  "created_at",
  "expires_at",
  "revoked_at",
] as const;
const LOGIN_COLUMNS = [
  "id",
  "owner_id",
  "kind",
  "client",
  "origin",
  "scopes",
  "created_at",
  "last_used_at",
  "expires_at",
  "idle_until",
  "revoked_at",
] as const;
const ENDPOINT_COLUMNS = [
  "id",
  "owner_id",
  "name",
  "created_at",
  "deleted_at",
  "public_key",
  "connected_at",
  "disconnected_at",
  "agent_info",
  "allow_functions",
] as const;

interface Grant {
  readonly table: string;
  readonly privileges: readonly string[];
  /** Only these; default: all. */
  readonly columns?: readonly string[];
}

/**
 * All that the tenants' role may do with tables. Row-level security holds for each of them; `task_names`, `tenant`,
 * `tenant_team` and `tenant_endpoint` are views.
 */
export const TENANT_GRANTS: readonly Grant[] = [
  { table: "task", privileges: ["SELECT"], columns: TASK_COLUMNS },
  { table: "outcome", privileges: ["SELECT"] },
  { table: "late_result", privileges: ["SELECT"] },
  { table: "tombstone", privileges: ["SELECT"] },
  { table: "task_output", privileges: ["SELECT"] },
  { table: "task_group", privileges: ["SELECT", "INSERT"] },
  { table: "idempotency", privileges: ["SELECT", "INSERT"] },
  { table: "object", privileges: ["SELECT", "INSERT", "UPDATE", "DELETE"] },
  { table: "payload", privileges: ["SELECT"] },
  { table: "secret", privileges: ["SELECT"], columns: SECRET_COLUMNS },
  { table: "webhook", privileges: ["SELECT"] },
  { table: "webhook_delivery", privileges: ["SELECT"] },
  { table: "audit_entry", privileges: ["SELECT"] },
  { table: "task_names", privileges: ["SELECT"] },
  { table: "tenant", privileges: ["SELECT"] },
  { table: "tenant_team", privileges: ["SELECT"] },
  { table: "tenant_endpoint", privileges: ["SELECT"] },
  { table: "function", privileges: ["SELECT"] },
  {
    table: "function",
    privileges: ["UPDATE"],
    columns: ["created_at", "deleted_at", "visibility", "team_id"],
  },
  { table: "function_signature", privileges: ["SELECT", "INSERT", "DELETE"] },
  { table: "endpoint", privileges: ["SELECT"], columns: ENDPOINT_COLUMNS },
  {
    table: "endpoint",
    privileges: ["UPDATE"],
    columns: ["name", "deleted_at", "public_key", "enrol_hash", "enrol_expires_at"],
  },
  { table: "endpoint_access", privileges: ["SELECT", "INSERT", "UPDATE", "DELETE"] },
  { table: "team", privileges: ["SELECT", "DELETE"] },
  { table: "team_member", privileges: ["SELECT", "INSERT", "DELETE"] },
  { table: "api_key", privileges: ["SELECT"], columns: KEY_COLUMNS },
  { table: "api_key", privileges: ["UPDATE"], columns: ["revoked_at"] },
  { table: "login_session", privileges: ["SELECT"], columns: LOGIN_COLUMNS },
  { table: "login_session", privileges: ["UPDATE"], columns: ["revoked_at"] },
  {
    table: "owner",
    privileges: ["SELECT"],
    columns: ["id", "name", "is_admin", "created_at", "disabled_at"],
  },
  { table: "local_password", privileges: ["SELECT"], columns: ["owner_id"] },
  { table: "external_identity", privileges: ["SELECT"], columns: ["owner_id", "issuer"] },
];

/** What it may call: each tells one name, or one id, to whoever knows the other. */
export const TENANT_FUNCTIONS: readonly string[] = [
  "farloom_person_name(uuid)",
  "farloom_person_id(text)",
  "farloom_team_name(uuid)",
];

/** Of the lock under which replicas that start together grant, one at a time. */
const GRANT_LOCK = 72_707_370;

const LACKS = `SELECT privilege || ' on ' || name AS what
  FROM unnest($2::text[], $3::text[], $4::text[]) AS asked (name, privilege, field)
  WHERE NOT CASE WHEN field IS NULL THEN has_table_privilege($1, quote_ident(name), privilege)
    ELSE has_column_privilege($1, quote_ident(name), field, privilege) END
  UNION ALL SELECT 'EXECUTE on ' || called FROM unnest($5::text[]) AS called
  WHERE NOT has_function_privilege($1, called, 'EXECUTE')`;

/** The database cannot be used with the roles that it was given; the message says what to do. */
export class TenantWallError extends Error {
  override readonly name = "TenantWallError";
}

/**
 * Gives the tenants' role what it needs, and looks whether PostgreSQL binds it.
 * @returns whether the wall stands; why it does not is logged.
 * @throws TenantWallError where the service's own role is bound, or the tenants' role may not read and nobody here may let it
 */
export async function raiseTenantWall(road: pg.Pool, tenants: pg.Pool, log: Logger): Promise<boolean> {
  const own = await standing(road);
  if (own.bound)
    throw new TenantWallError(
      `the role ${own.role} of DATABASE_URL neither owns the service's tables nor has BYPASSRLS, so PostgreSQL would hide ` +
        "everybody's tasks from the service: make it a member of the role that owns them",
    );
  const { bound, role } = await standing(tenants);
  if (!bound) {
    log.warn(
      { role },
      role === own.role
        ? "people's rows are kept apart by the service's statements alone: for PostgreSQL to do it too, give the service a second role by FARLOOM_TENANT_DATABASE_URL (docs/tenancy.md)"
        : "people's rows are kept apart by the service's statements alone: the role of FARLOOM_TENANT_DATABASE_URL is a superuser, owns the tables or has BYPASSRLS (docs/tenancy.md)",
    );
    return false;
  }
  if ((await lacking(road, role)).length > 0) await grant(road, role);
  const [first] = await lacking(road, role);
  if (first !== undefined)
    throw new TenantWallError(
      `the role ${role} of FARLOOM_TENANT_DATABASE_URL lacks ${first}, and the role ` +
        `${own.role} may not grant it: whoever owns the tables has to (docs/tenancy.md)`,
    );
  return true;
}

interface Standing {
  readonly role: string;
  readonly bound: boolean;
}

async function standing(pool: pg.Pool): Promise<Standing> {
  const { rows } = await pool.query<Standing>(
    "SELECT current_user::text AS role, row_security_active('task') AS bound",
  );
  return rows[0]!;
}

/** What the role lacks of the grants, as privilege and table. */
async function lacking(pool: pg.Pool, role: string): Promise<string[]> {
  const asked = TENANT_GRANTS.flatMap(({ table, privileges, columns }) =>
    privileges.flatMap((privilege) => (columns ?? [null]).map((column) => ({ table, privilege, column }))),
  );
  const { rows } = await pool.query<{ what: string }>(LACKS, [
    role,
    asked.map(({ table }) => table),
    asked.map(({ privilege }) => privilege),
    asked.map(({ column }) => column),
    TENANT_FUNCTIONS,
  ]);
  return rows.map(({ what }) => what);
}

async function grant(pool: pg.Pool, role: string): Promise<void> {
  const client: pg.PoolClient = await pool.connect();
  let failure: Error | undefined;
  try {
    await client.query("BEGIN");
    await client.query("SELECT pg_advisory_xact_lock($1)", [GRANT_LOCK]);
    const to = pg.escapeIdentifier(role);
    for (const { table, privileges, columns } of TENANT_GRANTS) {
      const of = columns === undefined ? "" : ` (${columns.map((name) => `"${name}"`).join(", ")})`;
      const what = privileges.map((privilege) => privilege + of).join(", ");
      await client.query(`GRANT ${what} ON "${table}" TO ${to}`);
    }
    for (const called of TENANT_FUNCTIONS) await client.query(`GRANT EXECUTE ON FUNCTION ${called} TO ${to}`);
    await client.query("COMMIT");
  } catch (error) {
    failure = error as Error;
    // Whoever may not grant is told what is lacking, by whoever looks next.
    if ((failure as { code?: string }).code !== "42501") throw error;
  } finally {
    client.release(failure);
  }
}
