/**
 * The connections on which one person's rows are read: under a role that PostgreSQL lets see that person's rows alone
 * (row-level security; the policies are in prisma/migrations). It is the second wall: the statements name the owner as
 * well, and one that forgets to leaks nothing.
 *
 *   T1  Nothing runs on such a connection before it has been told for whom, and heard that it knows. A connection that
 *       is already that person's is not told again, so most reads cost no more than without the wall.
 *   T2  After any error the connection is closed: nobody knows for whom it asks.
 *   T3  The connections are nobody else's: all that is done with them goes through here.
 */
import type { Pool, PoolClient, QueryConfig, QueryResult, QueryResultRow } from "pg";

const BECOME = { name: "tenant-become", text: "SELECT set_config('farloom.owner', $1, false)" };

export class TenantPool {
  readonly #pool: Pool;
  /** For whom each connection asks. */
  readonly #tenants = new WeakMap<PoolClient, string>();

  /** @param pool of the tenants' role, and for this alone (T3) */
  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Runs one statement for this person: it sees no row of anybody else's, whatever it asks for. */
  query<R extends QueryResultRow>(ownerId: string, query: QueryConfig): Promise<QueryResult<R>> {
    return this.#as(ownerId, (client) => client.query<R>(query));
  }

  /** Runs several statements in one transaction that only reads; settings made in it end with it. */
  reading<T>(ownerId: string, work: (client: PoolClient) => Promise<T>): Promise<T> {
    return this.#as(ownerId, async (client) => {
      await client.query("BEGIN READ ONLY");
      const answer = await work(client);
      await client.query("COMMIT");
      return answer;
    });
  }

  async #as<T>(ownerId: string, work: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let failure: Error | undefined;
    try {
      if (this.#tenants.get(client) !== ownerId) {
        this.#tenants.delete(client);
        await client.query({ ...BECOME, values: [ownerId] }); // T1
        this.#tenants.set(client, ownerId);
      }
      return await work(client);
    } catch (error) {
      failure = error as Error;
      throw error;
    } finally {
      client.release(failure); // T2
    }
  }
}
