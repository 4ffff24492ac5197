/**
 * Signatures of functions, kept beside them as they came (P37b). Here an envelope is checked for its form, and for being
 * about this function; whether its key is anybody's to trust only agents decide. They are read where an agent asks, not
 * where tasks are sent.
 *
 * Bound: MAX_EACH of one function by one person, each of at most 4 KiB; the oldest makes room. An agent is told
 * MAX_TOLD, the owner's before all others', so that nobody crowds them out.
 */

import { createHash } from "node:crypto";
import { FarloomError, functionStatement, parseEnvelope } from "@farloom/protocol";
import type { Pool } from "pg";
import type { TenantPool } from "../store/tenant-pool.js";
import type { FunctionRecord } from "./registry.js";

const MAX_EACH = 16;
const MAX_TOLD = 16;

export interface FunctionSignature {
  readonly id: string;
  readonly envelope: string;
  /** What the envelope says of who signed; nothing is proved by it. */
  readonly keyIds: readonly string[];
  readonly name: string;
  readonly expires: number | undefined;
  readonly addedBy: string;
  readonly addedAtMs: number;
}

interface Row {
  readonly id: Buffer;
  readonly envelope: string;
  readonly added_by: string;
  readonly added_at: Date;
}

export class FunctionSignatures {
  readonly #pool: Pool;
  readonly #tenants: TenantPool;

  /** @param pool for what agents are told */
  constructor(pool: Pool, tenants: TenantPool) {
    this.#pool = pool;
    this.#tenants = tenants;
  }

  /** Keeps an envelope; the same again is the same. @throws FarloomError REQUEST_INVALID */
  async add(fn: FunctionRecord, envelope: string, personId: string): Promise<{ readonly created: boolean }> {
    const parsed = parseEnvelope(envelope);
    if (!parsed.ok) throw invalid(`the envelope cannot be kept: ${parsed.why}`);
    const statement = functionStatement(parsed.envelope);
    if (statement === undefined) throw invalid("the envelope holds no statement about a function");
    if (statement.function !== fn.id)
      throw invalid(`the envelope is about the function ${statement.function}`);
    const id = createHash("sha256").update(envelope).digest();
    const { rowCount } = await this.#tenants.query(personId, {
      text: `INSERT INTO function_signature (function_key, id, added_by, envelope) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING`,
      values: [fn.key, id, personId, envelope],
    });
    await this.#tenants.query(personId, {
      text: `DELETE FROM function_signature WHERE function_key = $1 AND added_by = $2 AND id NOT IN (
               SELECT id FROM function_signature WHERE function_key = $1 AND added_by = $2
               ORDER BY added_at DESC, id LIMIT $3)`,
      values: [fn.key, personId, MAX_EACH],
    });
    return { created: rowCount === 1 };
  }

  /** Those of one version, the newest first, for somebody who may use it. */
  async list(fn: FunctionRecord, personId: string): Promise<FunctionSignature[]> {
    const { rows } = await this.#tenants.query<Row>(personId, {
      text: `SELECT s.id, s.envelope, s.added_at, farloom_person_name(s.added_by) AS added_by FROM function_signature s
             WHERE s.function_key = $1 ORDER BY s.added_at DESC, s.id LIMIT 256`,
      values: [fn.key],
    });
    return rows.flatMap((row) => {
      const parsed = parseEnvelope(row.envelope);
      const statement = parsed.ok ? functionStatement(parsed.envelope) : undefined;
      if (!parsed.ok || statement === undefined) return [];
      return {
        id: row.id.toString("hex"),
        envelope: row.envelope,
        keyIds: parsed.envelope.signatures.map(({ keyid }) => keyid),
        name: statement.name,
        expires: statement.expires,
        addedBy: row.added_by,
        addedAtMs: row.added_at.getTime(),
      };
    });
  }

  /** What an agent is told of each function: those of all versions of this owner that have the same code. */
  async told(fns: readonly FunctionRecord[]): Promise<string[][]> {
    const { rows } = await this.#pool.query<{ key: number; envelope: string }>(
      `SELECT asked.key, told.envelope FROM unnest($1::int[]) AS asked(key)
       CROSS JOIN LATERAL (
         SELECT s.envelope, s.added_by = f.owner_id AS own, s.added_at, s.id FROM function f
         JOIN function same ON same.owner_id = f.owner_id AND same.digest = f.digest
         JOIN function_signature s ON s.function_key = same.key
         WHERE f.key = asked.key ORDER BY own DESC, s.added_at DESC, s.id LIMIT $2) AS told
       ORDER BY told.own DESC, told.added_at DESC, told.id`,
      // As many people as may use a function may sign it: their envelopes are not read to be thrown away.
      [fns.map((fn) => fn.key), MAX_TOLD],
    );
    return fns.map((fn) => rows.filter(({ key }) => key === fn.key).map(({ envelope }) => envelope));
  }
}

function invalid(detail: string): FarloomError {
  return new FarloomError("REQUEST_INVALID", { detail });
}
