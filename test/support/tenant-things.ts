// For tests of the wall between people: a connection whose statements forget whom they are for, and one person's row in
// every table of what people share and hold.
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { makeSignKey, signFunction } from "@farloom/protocol";
import pg from "pg";

/** Statements of which MutantClient has taken something, as they were sent. */
export const mutants = { count: 0 };

/** A connection that takes out of every condition whose rows are wanted, and what is shared with whom. */
export class MutantClient extends pg.Client {
  // biome-ignore lint/suspicious/noExplicitAny: every form that pg's query takes goes on unchanged.
  override query(query: any, ...more: any[]): any {
    if (typeof query === "string") return super.query(strip(query), ...more);
    if (typeof query?.text === "string") query.text = strip(query.text);
    // biome-ignore lint/suspicious/noExplicitAny: as above.
    return (super.query as any)(query, ...more);
  }
}

function strip(text: string): string {
  return text
    .replace(/(?:\b\w+\.)?(?:owner_id|person_id|subject_id|added_by) = (\$\d+)(?:::uuid)?/g, (_, value) => {
      mutants.count++;
      return `(${value}::uuid IS NOT NULL)`;
    })
    .replace(/\bf\.visibility = \d/g, "true");
}

export interface Things {
  readonly ownerId: string;
  readonly name: string;
  readonly keyId: string;
  readonly loginId: string;
  readonly teamId: string;
  readonly endpointId: string;
  /** Of a private function, and of one that is shared with the team. */
  readonly functionKey: number;
  readonly digest: Buffer;
  readonly teamFunctionKey: number;
  readonly teamDigest: Buffer;
}

const signer = makeSignKey();
/** A signature of that function. */
export const envelopeOf = (digest: Buffer): string =>
  signFunction({ function: digest.toString("hex"), name: "some/body", created: 1 }, signer);

/**
 * Somebody's API key, login, password, identity elsewhere, team with nobody else in it, endpoint with an entry for that team,
 * and signed functions. The person has to be there.
 */
export async function thingsOf(road: pg.Pool, ownerId: string, name: string): Promise<Things> {
  const [teamId, endpointId] = [randomUUID(), randomUUID()];
  const [keyId, loginId] = [randomBytes(8).toString("hex"), `ses-${randomBytes(8).toString("hex")}`];
  const run = (text: string, ...values: unknown[]) => road.query(text, values);
  await run(
    `INSERT INTO api_key (id, owner_id, label, secret_hash, scopes, expires_at) VALUES ($1, $2, $3, '\\x01', '{}', now() + interval '1 day')`,
    keyId,
    ownerId,
    name,
  );
  await run(
    `INSERT INTO login_session (id, owner_id, kind, secret_hash, scopes, client, origin, expires_at, idle_until)
     VALUES ($1, $2, 1, '\\x01', '{}', $3, '', now() + interval '1 day', now() + interval '1 day')`,
    loginId,
    ownerId,
    name,
  );
  await run("INSERT INTO local_password (owner_id, hash) VALUES ($1, 'none')", ownerId);
  await run(
    "INSERT INTO external_identity (issuer, subject, owner_id) VALUES ('https://elsewhere.test', $2, $1)",
    ownerId,
    name,
  );
  await run("INSERT INTO team (id, owner_id, name) VALUES ($1, $2, $3)", teamId, ownerId, name);
  await run("INSERT INTO team_member (team_id, person_id) VALUES ($1, $2)", teamId, ownerId);
  await run(
    "INSERT INTO endpoint (id, owner_id, name, allow_functions, public_key) VALUES ($1, $2, $3, ARRAY[$4], '\\x01')",
    endpointId,
    ownerId,
    `of-${name}`,
    `${name}/*`,
  );
  await run(
    "INSERT INTO endpoint_access (endpoint_id, subject_id, is_team, allow) VALUES ($1, $2, true, 2)",
    endpointId,
    teamId,
  );
  const signed = async (
    version: number,
    visibility: number,
    team: string | null,
  ): Promise<[number, Buffer]> => {
    const digest = createHash("sha256").update(`${name}${version}`).digest();
    const { rows } = await run(
      `INSERT INTO function (owner_id, digest, name, version, runtime, definition, code, visibility, team_id, created_at)
       VALUES ($1, $2, $3, $4::int4, 'python', '{"runtime": "python", "format": "source", "env": {}}', '\\x01', $5, $6, now() + $4::int4 * interval '1 second')
       RETURNING key`,
      ownerId,
      digest,
      name,
      version,
      visibility,
      team,
    );
    await run(
      "INSERT INTO function_signature (function_key, id, added_by, envelope) VALUES ($1, '\\x01', $2, $3)",
      rows[0].key,
      ownerId,
      envelopeOf(digest),
    );
    return [rows[0].key, digest];
  };
  const [functionKey, digest] = await signed(1, 0, null);
  const [teamFunctionKey, teamDigest] = await signed(2, 1, teamId);
  return {
    ownerId,
    name,
    keyId,
    loginId,
    teamId,
    endpointId,
    functionKey,
    digest,
    teamFunctionKey,
    teamDigest,
  };
}
