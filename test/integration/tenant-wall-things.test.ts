/**
 * The second wall around what people share and hold: functions, endpoints, access lists, teams, keys, logins, signatures and
 * accounts. As in tenant-wall.test.ts, every statement is run as a mutant that forgets whose rows it wants: under the
 * role of the road, where it leaks or harms, and under the tenants', where it does neither.
 */
import { randomUUID } from "node:crypto";
import { uuidToKey } from "@farloom/protocol";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Enrolment } from "../../apps/web-service/src/endpoints/enrolment.js";
import { EndpointRegistry } from "../../apps/web-service/src/endpoints/registry.js";
import { FunctionRows } from "../../apps/web-service/src/functions/rows.js";
import { FunctionSignatures } from "../../apps/web-service/src/functions/signatures.js";
import { Accounts } from "../../apps/web-service/src/identity/accounts.js";
import { ApiKeys } from "../../apps/web-service/src/identity/api-keys.js";
import { LoginSessions } from "../../apps/web-service/src/identity/login-sessions.js";
import { AccessLists } from "../../apps/web-service/src/sharing/access-lists.js";
import { Teams } from "../../apps/web-service/src/sharing/teams.js";
import { VisibleFunctions } from "../../apps/web-service/src/sharing/visible-functions.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { envelopeOf, MutantClient, mutants, type Things, thingsOf } from "../support/tenant-things.js";

const INSUFFICIENT_PRIVILEGE = "42501";
const NONE = undefined as never;
/** Nothing is remembered: each question meets the database. */
const EPOCH = { generation: 0, isFresh: false, changed: () => {} } as never;

let rest: RestService;
let road: pg.Pool;
let asItIs: TenantPool;
let mutant: TenantPool;
let leaky: TenantPool;
let ann: Things;
let bob: Things;
const pools: pg.Pool[] = [];

beforeAll(async () => {
  rest = await startRestService();
  road = rest.database.pool;
  asItIs = open(rest.database.tenantUrl);
  mutant = open(rest.database.tenantUrl, MutantClient);
  leaky = open(rest.database.url, MutantClient);
  ann = await person("ann");
  bob = await person("bob");
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await rest?.close();
});

function open(connectionString: string, Client: typeof pg.Client = pg.Client): TenantPool {
  const pool = new pg.Pool({ connectionString, max: 2, Client: Client as never });
  pool.on("error", () => {});
  pools.push(pool);
  return new TenantPool(pool);
}

async function person(name: string): Promise<Things> {
  const id = randomUUID();
  await road.query("INSERT INTO owner (id, name) VALUES ($1, $2)", [id, name]);
  return thingsOf(road, id, name);
}

const principal = ({ ownerId, name }: Things) =>
  ({ ownerId, ownerKey: uuidToKey(ownerId)!, ownerName: name }) as never;
const functions = (t: TenantPool) => new FunctionRows(t);
const endpoints = (t: TenantPool) => new EndpointRegistry({ prisma: NONE, pool: NONE, tenants: t }, EPOCH);
const teams = (t: TenantPool) => new Teams(NONE, t, EPOCH);
const lists = (t: TenantPool) => new AccessLists(NONE, t, EPOCH);
const signatures = (t: TenantPool) => new FunctionSignatures(NONE, t);
const enrolment = (t: TenantPool) =>
  new Enrolment({ prisma: NONE, pool: NONE, tenants: t }, {
    clock: { nowMs: Date.now },
    changed: () => {},
  } as never);
const keys = (t: TenantPool) => new ApiKeys({ prisma: NONE, pool: NONE, tenants: t }, NONE);
const team = (of: Things) => ({ id: of.teamId }) as never;
const endpoint = (of: Things) => ({ id: of.endpointId, name: `of-${of.name}`, level: 4 }) as never;
const count = (found: unknown): number => (found === undefined ? 0 : 1);
/** An error that says that there is no such thing. */
const orNone = (asked: Promise<unknown>): Promise<number> =>
  asked.then(count, (error: { code?: string }) => {
    if (!/_NOT_FOUND$/.test(error.code ?? "")) throw error;
    return 0;
  });
/** What says nothing of a person, and is asked with an id that was looked up: the mutant looked it up badly. */
const byId = <T>(asked: T): T => {
  mutants.count++;
  return asked;
};
const page = { text: undefined, before: undefined, limit: 100, isPublic: false };

/** What each statement that answers a person tells Ann of Bob's: how many things. */
const READS: Record<string, (t: TenantPool) => Promise<number>> = {
  "a function by digest": async (t) => count(await functions(t).ofDigest(ann.ownerId, bob.digest)),
  "a team's function by digest": async (t) => count(await functions(t).ofDigest(ann.ownerId, bob.teamDigest)),
  "a function by its bare name": async (t) =>
    count(await functions(t).ownByName(ann.ownerId, "bob", undefined)),
  "a function by owner and name": async (t) =>
    count(await functions(t).sharedByName(ann.ownerId, { owner: "bob", name: "bob", version: 1 })),
  "what a name already has": async (t) => (await functions(t).same(ann.ownerId, "bob", bob.digest)).length,
  "a list of functions": async (t) =>
    (await functions(t).list(ann.ownerId, page)).filter((row) => row.ownerId === bob.ownerId).length,
  "with whom a function is shared": async (t) =>
    count(await functions(t).sharing(ann.ownerId, bob.teamFunctionKey)),
  "whether a function is visible": async (t) =>
    Number(await new VisibleFunctions(t, EPOCH).load(bob.functionKey, uuidToKey(ann.ownerId)!)),
  "signatures of a function": async (t) =>
    (await byId(signatures(t)).list({ key: bob.functionKey } as never, ann.ownerId)).length,
  "an endpoint that is submitted to": async (t) =>
    count(await endpoints(t).load(uuidToKey(ann.ownerId)!, uuidToKey(bob.endpointId)!)),
  "an endpoint by owner and name": async (t) => orNone(endpoints(t).resolve(principal(ann), "bob/of-bob")),
  "an endpoint's row": async (t) => orNone(endpoints(t).read(principal(ann), endpoint(bob))),
  "a list of endpoints": async (t) =>
    (await endpoints(t).list(ann.ownerId, { limit: 100 })).items.filter(({ id }) => id === bob.endpointId)
      .length,
  "a team by its id": async (t) => orNone(teams(t).resolve(principal(ann), bob.teamId)),
  "a team by owner and name": async (t) => orNone(teams(t).resolve(principal(ann), "bob/bob")),
  "a list of teams": async (t) =>
    (await teams(t).list(ann.ownerId)).filter(({ id }) => id === bob.teamId).length,
  "members of a team": async (t) => (await byId(teams(t)).members(ann.ownerId, team(bob))).length,
  "an access list": async (t) => (await byId(lists(t)).list(ann.ownerId, endpoint(bob))).length,
  "which functions an endpoint runs": async (t) =>
    (await byId(lists(t)).allowedFunctions(ann.ownerId, endpoint(bob))).length,
  "API keys": async (t) => (await keys(t).list(ann.ownerId)).filter(({ id }) => id === bob.keyId).length,
  logins: async (t) =>
    (await new LoginSessions(NONE, t).list(ann.ownerId)).filter(({ id }) => id === bob.loginId).length,
  // Whoever is taken for an administrator by mistake.
  accounts: async (t) =>
    (await byId(new Accounts(NONE, t)).list(ann.ownerId)).filter(({ name }) => name === "bob").length,
};

/** What each statement that changes something for a person does to somebody else's, when Ann asks for it. */
const WRITES: Record<string, (t: TenantPool, of: Things) => Promise<unknown>> = {
  "sharing a function": (t, of) => functions(t).share(ann.ownerId, of.functionKey, 2, undefined),
  "removing a function": (t, of) => functions(t).remove(ann.ownerId, of.functionKey),
  "making a version the newest": (t, of) =>
    functions(t).makeNewest(ann.ownerId, { key: of.functionKey, name: of.name } as never),
  "signing a function": (t, of) =>
    byId(signatures(t)).add(
      { key: of.functionKey, id: of.digest.toString("hex") } as never,
      `${envelopeOf(of.digest)}`,
      ann.ownerId,
    ),
  "deleting an endpoint": (t, of) => endpoints(t).remove(principal(ann), endpoint(of)),
  "a code with which to become an endpoint": (t, of) => enrolment(t).newCode(principal(ann), endpoint(of)),
  "taking an endpoint from its agent": (t, of) => enrolment(t).revoke(principal(ann), endpoint(of)),
  "letting somebody use an endpoint": (t, of) =>
    byId(lists(t)).set(ann.ownerId, endpoint(of), {
      subjectId: ann.ownerId,
      isTeam: false,
      allow: 3,
      deny: 0,
    }),
  "taking an entry from an access list": (t, of) =>
    byId(lists(t)).set(ann.ownerId, endpoint(of), { subjectId: of.teamId, isTeam: true, allow: 0, deny: 0 }),
  "joining a team": (t, of) => byId(teams(t)).add(ann.ownerId, team(of), "ann"),
  "taking somebody out of a team": (t, of) => byId(teams(t)).takeOut(ann.ownerId, team(of), of.name),
  "deleting a team": (t, of) => teams(t).remove(ann.ownerId, team(of)),
  "revoking an API key": (t, of) => keys(t).revoke(ann.ownerId, of.keyId),
  "ending a login": (t, of) => new LoginSessions(NONE, t).revoke(ann.ownerId, of.loginId),
};

/** All that is somebody's, as it stands. */
async function stateOf({ ownerId, teamId, endpointId, functionKey, teamFunctionKey }: Things) {
  const keys = [functionKey, teamFunctionKey];
  const parts: [string, unknown][] = [
    ["SELECT * FROM function WHERE owner_id = $1", ownerId],
    ["SELECT * FROM function_signature WHERE function_key = ANY($1)", keys],
    ["SELECT * FROM endpoint WHERE id = $1", endpointId],
    ["SELECT * FROM endpoint_access WHERE endpoint_id = $1", endpointId],
    ["SELECT * FROM team WHERE id = $1", teamId],
    ["SELECT * FROM team_member WHERE team_id = $1", teamId],
    ["SELECT * FROM api_key WHERE owner_id = $1", ownerId],
    ["SELECT * FROM login_session WHERE owner_id = $1", ownerId],
  ];
  const rows = parts.map(async ([text, value]) => (await road.query(`${text} ORDER BY 1, 2`, [value])).rows);
  return JSON.stringify(await Promise.all(rows));
}

describe("a statement that forgets whose rows it wants", () => {
  for (const [what, read] of Object.entries(READS)) {
    it(`leaks nothing: ${what}`, async () => {
      expect(await read(asItIs), "as it is").toBe(0);
      mutants.count = 0;
      expect(await read(leaky), "the mutant without the wall").toBeGreaterThan(0);
      expect(mutants.count).toBeGreaterThan(0);
      expect(await read(mutant), "the mutant behind the wall").toBe(0);
    });
  }

  for (const [what, write] of Object.entries(WRITES)) {
    it(`changes nothing: ${what}`, async () => {
      const victim = await person(`victim-${randomUUID().slice(0, 8)}`);
      const before = await stateOf(victim);
      for (const tenants of [asItIs, mutant]) {
        await write(tenants, victim).catch((error: { code?: string }) => {
          expect(error.code).toMatch(new RegExp(`_NOT_FOUND$|^${INSUFFICIENT_PRIVILEGE}$`));
        });
        expect(await stateOf(victim), "behind the wall").toBe(before);
      }
      mutants.count = 0;
      await write(leaky, victim);
      expect(mutants.count).toBeGreaterThan(0);
      expect(await stateOf(victim), "the mutant without the wall").not.toBe(before);
    });
  }
});
