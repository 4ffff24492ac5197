/**
 * A credential with an id that there is not costs what a wrong secret costs: the same statements and the same hashes and
 * comparisons, counted rather than timed. So how long a refusal takes tells nobody which ids there are.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { Enrolment } from "../../apps/web-service/src/endpoints/enrolment.js";
import { PrismaClient } from "../../apps/web-service/src/generated/prisma/client.js";
import { Accounts } from "../../apps/web-service/src/identity/accounts.js";
import { ApiKeys } from "../../apps/web-service/src/identity/api-keys.js";
import { LoginSessions } from "../../apps/web-service/src/identity/login-sessions.js";
import { hashPassword } from "../../apps/web-service/src/identity/passwords.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";

/** What was done, in order: statements by their text, and what costs time of the processor. */
const work = vi.hoisted(() => [] as string[]);

// Node's own, which says that it was called.
vi.mock("node:crypto", async (original) => {
  const crypto = await original<typeof import("node:crypto")>();
  return {
    ...crypto,
    createHash: (name: string) => {
      work.push(`hash ${name}`);
      return crypto.createHash(name);
    },
    timingSafeEqual: (a: NodeJS.ArrayBufferView, b: NodeJS.ArrayBufferView) => {
      work.push(`compare ${a.byteLength}`);
      return crypto.timingSafeEqual(a, b);
    },
    scrypt: (...args: Parameters<typeof crypto.scrypt>) => {
      const { N, r, p } = args[3] as { N: number; r: number; p: number };
      work.push(`scrypt ${N} ${r} ${p}`);
      return crypto.scrypt(...args);
    },
  };
});

class CountingClient extends pg.Client {
  // biome-ignore lint/suspicious/noExplicitAny: every form that pg's query takes goes on unchanged.
  override query(query: any, ...more: any[]): any {
    work.push(`statement ${typeof query === "string" ? query : query.text}`);
    // biome-ignore lint/suspicious/noExplicitAny: as above.
    return (super.query as any)(query, ...more);
  }
}

const CLOCK = { nowMs: Date.now };
const ID = randomUUID();
const KEY = randomBytes(8).toString("hex");
const SESSION = `ses-${randomBytes(8).toString("hex")}`;
const OTHER_SESSION = `ses-${randomBytes(8).toString("hex")}`;
const secret = (bytes = 32) => randomBytes(bytes).toString("base64url");
const code = (id: string) => `fle_${id.replaceAll("-", "")}_${secret(24)}`;

let database: TestDatabase;
let pool: pg.Pool;
let prisma: PrismaClient;

beforeAll(async () => {
  database = await freshDatabase();
  pool = new pg.Pool({ connectionString: database.url, max: 1, Client: CountingClient as never });
  prisma = new PrismaClient({ adapter: new PrismaPg(pool) });
  const run = (text: string, ...values: unknown[]) => database.pool.query(text, values);
  await run("INSERT INTO owner (id, name) VALUES ($1, 'ann')", ID);
  await run("INSERT INTO local_password (owner_id, hash) VALUES ($1, $2)", ID, await hashPassword("right"));
  await run(
    `INSERT INTO api_key (id, owner_id, label, secret_hash, scopes, expires_at)
     VALUES ($1, $2, '', sha256('right'), '{}', now() + interval '1 day')`,
    KEY,
    ID,
  );
  for (const [id, kind] of [
    [SESSION, 1],
    [OTHER_SESSION, 2],
  ])
    await run(
      `INSERT INTO login_session (id, owner_id, kind, secret_hash, family_hash, scopes, client, origin, expires_at, idle_until)
       VALUES ($1, $2, $3, sha256('right'), sha256('right'), '{}', '', '', now() + interval '1 day', now() + interval '1 day')`,
      id,
      ID,
      kind,
    );
  await run(
    `INSERT INTO endpoint (id, owner_id, name, enrol_hash, enrol_expires_at)
     VALUES ($1, $1, 'lab', sha256('right'), now() + interval '1 day')`,
    ID,
  );
});
afterAll(async () => {
  await prisma?.$disconnect();
  await pool?.end();
  await database?.drop();
});

const publicKey = Buffer.alloc(32, 1);
const both = () => ({ prisma, pool, tenants: new TenantPool(pool) });
const sessions = () => new LoginSessions(pool, new TenantPool(pool));

/** Each with an id that there is, and with one that there is not; the secret is wrong in both. */
const CREDENTIALS: Record<string, (isThere: boolean) => Promise<unknown>> = {
  "an API key": (isThere) =>
    new ApiKeys(both(), CLOCK as never).verify(
      `fl_${isThere ? KEY : randomBytes(8).toString("hex")}_${secret()}`,
    ),
  "a browser's cookie": (isThere) =>
    sessions().verifyCookie(`fls_${isThere ? SESSION : `ses-${randomBytes(8).toString("hex")}`}_${secret()}`),
  "a refresh token": (isThere) =>
    sessions().refresh(
      `flr_${isThere ? OTHER_SESSION : `ses-${randomBytes(8).toString("hex")}`}_${secret(16)}_${secret()}`,
      secret(),
    ),
  "a password": (isThere) =>
    new Accounts(pool, new TenantPool(pool)).logIn(isThere ? "ann" : "nobody", secret()),
  "an enrolment code": (isThere) =>
    new Enrolment(both(), { clock: CLOCK } as never)
      .enroll({ code: code(isThere ? ID : randomUUID()), publicKey })
      .catch((error: { code: string }) => error.code),
};

for (const [what, bring] of Object.entries(CREDENTIALS)) {
  it(`${what} of an unknown id costs what a wrong secret costs, and is refused alike`, async () => {
    const refused = async (isThere: boolean) => {
      work.length = 0;
      const answer = await bring(isThere);
      // A log-in says whose account it was, for the audit log alone.
      const { ownerId: _, ...told } = (answer ?? {}) as { ownerId?: string };
      return { told: typeof answer === "object" ? told : answer, work: [...work] };
    };
    // What is prepared once is no part of a refusal.
    await refused(true);
    const wrong = await refused(true);
    expect(wrong.work.some((step) => step.startsWith("statement"))).toBe(true);
    expect(wrong.work.some((step) => !step.startsWith("statement"))).toBe(true);
    expect(await refused(false)).toEqual(wrong);
  });
}
