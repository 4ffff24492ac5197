/**
 * The web service, wired: this file is the map. The road is
 *
 *     api ─► intake ─► store ─► dispatch ─► gateway ──► agent
 *     api ◄─ deliver ◄─ store ◄─ collect ◄──────────────┘
 *
 * and beside it stand identity, functions, endpoints, payloads (what tasks refer to), objects (what people keep
 * here) and background (what happens later). Everything held in memory can be rebuilt from PostgreSQL.
 */
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { FarloomError, type IdKey, keyToUuid, limits, uuidToKey } from "@farloom/protocol";
import { PrismaPg } from "@prisma/adapter-pg";
import type { Logger } from "pino";
import { type CancelAudit, ClientSession } from "./api/link/client-session.js";
import { buildApp } from "./app.js";
import { AuditLog } from "./audit/log.js";
import { lateBackground } from "./background/late.js";
import { Collect, type OutcomeRow } from "./collect/collect.js";
import { OutputWriter } from "./collect/output-writer.js";
import { Reattempts } from "./collect/reattempts.js";
import { StartsWriter } from "./collect/starts.js";
import type { Config } from "./config.js";
import { Deliver } from "./deliver/deliver.js";
import { OutputNews } from "./deliver/output-news.js";
import type { EndHow } from "./dispatch/cancels.js";
import { Dispatch } from "./dispatch/dispatch.js";
import { LeasedNow } from "./dispatch/leased-now.js";
import { Reclaim } from "./dispatch/reclaim.js";
import { Sweep } from "./dispatch/sweep.js";
import { TimeLimits } from "./dispatch/time-limits.js";
import { EndpointRegistry } from "./endpoints/registry.js";
import { FunctionRegistry } from "./functions/registry.js";
import { FunctionSignatures } from "./functions/signatures.js";
import { AgentSession } from "./gateway/agent-session.js";
import { PrismaClient } from "./generated/prisma/client.js";
import { authorizationOf, placeOf, requireOrigin } from "./http/browser.js";
import { Holding } from "./http/holding.js";
import { Metrics } from "./http/metrics.js";
import { OwnHosts } from "./http/own-hosts.js";
import { observeRoad } from "./http/road-metrics.js";
import { bootstrapKey } from "./identity/bootstrap.js";
import { Identity } from "./identity/identity.js";
import { KeyRing } from "./identity/key-ring.js";
import { firstAdminToken, openPeople } from "./identity/people.js";
import type { LinkedAgent, Principal } from "./identity/principal.js";
import { loadSigningKey } from "./identity/signing-key.js";
import { Groups } from "./intake/groups.js";
import { Intake } from "./intake/intake.js";
import { OpenBudget } from "./intake/open-budget.js";
import { Revocations } from "./link/revocations.js";
import { serveLinks } from "./link/upgrade.js";
import { openBackend } from "./objects/open-backend.js";
import { ObjectRows } from "./objects/rows.js";
import { ObjectStore } from "./objects/store.js";
import { startObjectSweep } from "./objects/sweep.js";
import { SharedPayloads } from "./payloads/shared.js";
import { PayloadStore } from "./payloads/store.js";
import { StoredBytes } from "./quotas/stored-bytes.js";
import { SecretKeys } from "./secrets/keys.js";
import { SecretStore } from "./secrets/store.js";
import { SecretUse } from "./secrets/use.js";
import { AccessLists } from "./sharing/access-lists.js";
import { RunAccess } from "./sharing/run-access.js";
import { Teams } from "./sharing/teams.js";
import { VisibleFunctions } from "./sharing/visible-functions.js";
import { AccessEpoch } from "./store/access-epoch.js";
import { DatabaseClock } from "./store/database-clock.js";
import { assertDurable } from "./store/durability.js";
import { EndpointReports } from "./store/endpoint-reports.js";
import { joinHintBus } from "./store/hint-bus.js";
import { keepEmbeddedPostgres } from "./store/kept-postgres.js";
import { applyMigrations, findMigrationsDir } from "./store/migrate.js";
import { hotName } from "./store/ownership.js";
import { isPassingAtStart } from "./store/pg-errors.js";
import { type Connection, openPool } from "./store/pool.js";
import { TenantPool } from "./store/tenant-pool.js";
import { raiseTenantWall } from "./store/tenant-wall.js";
import { SOFTWARE } from "./support/version.js";
import { TaskReach } from "./tasks/reach.js";
import { Webhooks } from "./webhooks/webhooks.js";

/** Connections for ordinary queries. */
const POOL_CONNECTIONS = 10;
/** Connections on which single people's rows are read. */
const TENANT_CONNECTIONS = 6;
/** Connections for the hot path: two lanes each of intake and collect, and pages. */
const HOT_CONNECTIONS = 6;
/** How long a start waits for PostgreSQL. */
const DATABASE_WAIT_MS = 30_000;
/** How long each step of a stop that needs an answer waits: a connection that the network forgot gives none. */
const BRIEF_MS = 300;
/** The same for a delayed task that is being released. */
const BACKGROUND_MS = 1_500;
/** How long a stop waits for what is being committed. */
const DRAIN_MS = 3_500;
/** How long what has ended may take to become deliveries; the rest is told after the next start. */
const WEBHOOKS_MS = 1_500;
/** How long requests that are being answered have. */
const CONNECTIONS_MS = 1_500;
/** How long it waits for the record of what agents had to be written. */
const FAREWELL_MS = 1_500;

/**
 * Planner settings of the hot path's connections. Its statements join a batch of ids to tables by primary key;
 * whatever the statistics of a table that grew a thousandfold since the last ANALYZE say, that is a nested loop. And a
 * page of a queue is read along its index, from where the last one ended: sorting would read the whole backlog for each.
 */
const HOT_PLANNER =
  "-c join_collapse_limit=1 -c from_collapse_limit=1 -c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off " +
  "-c enable_bitmapscan=off -c enable_sort=off -c plan_cache_mode=force_generic_plan";

export interface RunningService {
  readonly url: string;
  readonly databaseUrl: string;
  /** With which the first administrator makes an account, at {url}/setup; undefined where there is somebody. */
  readonly firstAdminToken: string | undefined;
  /** Stops within ten seconds; nothing acknowledged is lost. Idempotent. */
  close(): Promise<void>;
}

/** Starts; where a PostgreSQL that others keep is not there yet, or goes away meanwhile, it is waited for. */
export async function startService(config: Config, log: Logger): Promise<RunningService> {
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 });
  const until = performance.now() + DATABASE_WAIT_MS;
  for (let delayMs = 100; ; delayMs = Math.min(2_000, delayMs * 2)) {
    const undo: (() => Promise<unknown> | unknown)[] = [];
    const closing = closer(undo, log);
    try {
      return await start(config, log, undo, closing);
    } catch (error) {
      await closing();
      const isOurs = config.databaseUrl === undefined;
      if (isOurs || !isPassingAtStart(error as Error) || performance.now() > until) throw error;
      log.warn(
        { err: (error as Error).message },
        "the database does not answer as the service starts; trying again",
      );
      await sleep(delayMs);
    }
  }
}

async function start(
  config: Config,
  log: Logger,
  undo: (() => Promise<unknown> | unknown)[],
  close: () => Promise<void>,
): Promise<RunningService> {
  const replicaId = randomUUID();

  // The database
  let { databaseUrl, tenantDatabaseUrl } = config;
  if (databaseUrl === undefined) {
    const postgres = await keepEmbeddedPostgres({ dataDir: join(config.stateDir, "postgres"), log });
    undo.push(() => postgres.stop());
    databaseUrl = postgres.url;
    tenantDatabaseUrl = postgres.tenantUrl;
  }
  const idle = new Set<Connection>();
  const rare = { log, idleTimeoutMs: 60_000, idle };
  const pool = openPool({ ...rare, url: databaseUrl, max: POOL_CONNECTIONS, name: "farloom" });
  const hot = openPool({
    url: databaseUrl,
    max: HOT_CONNECTIONS,
    name: hotName(replicaId),
    log,
    idle,
    settings: HOT_PLANNER,
    // It stays: a new one is a new process of PostgreSQL, and parses everything again.
    idleTimeoutMs: 0,
  });
  const walled = openPool({
    ...rare,
    url: tenantDatabaseUrl ?? databaseUrl,
    max: TENANT_CONNECTIONS,
    name: "farloom-tenant",
  });
  undo.push(
    brief(() => pool.end()),
    brief(() => hot.end()),
    brief(() => walled.end()),
  );
  await assertDurable(pool);
  await applyMigrations(pool, findMigrationsDir(), log);
  const isWalled = await raiseTenantWall(pool, walled, log);
  const tenants = new TenantPool(walled);
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) });
  undo.push(() => prisma.$disconnect());
  const database = { prisma, pool, tenants };

  // What tasks refer to
  const clock = await DatabaseClock.start(pool, log);
  undo.push(() => clock.stop());
  const epoch = await AccessEpoch.start(pool, log);
  undo.push(() => epoch.close());
  const signingKey = await loadSigningKey(config.stateDir, config.signingKeyFile);
  const keyRing = await KeyRing.open(signingKey, pool, clock, log);
  const identity = new Identity(database, keyRing, { clock, epoch });
  const people = openPeople(database, keyRing, { config, log });
  const visible = new VisibleFunctions(tenants, epoch);
  const functions = new FunctionRegistry(prisma, tenants, visible);
  const signatures = new FunctionSignatures(pool, tenants);
  const endpoints = new EndpointRegistry(database, epoch);
  const secretKeys = await SecretKeys.load(config.stateDir, config.secretsKeyFile);
  const secrets = new SecretStore(pool, tenants, secretKeys, log);
  await secrets.sealAnew();
  const secretUse = new SecretUse(pool, secrets);
  const reach = new TaskReach(tenants, functions, identity.nested);
  const payloads = new PayloadStore({ pool, tenants }, config.stateDir, log);
  undo.push(() => payloads.close());
  const blobs = await openBackend(config, log);
  const objects = new ObjectStore(new ObjectRows(pool, tenants), blobs, log);
  const endObjectSweep = startObjectSweep({ rows: objects.rows, backend: blobs, log });
  undo.push(brief(endObjectSweep), () => blobs.close());
  await bootstrapKey(config, identity, log);

  const webhooks =
    config.webhooks &&
    (await Webhooks.start({
      pool,
      tenants,
      log,
      clock,
      epoch,
      replicaId,
      derive: (purpose) => keyRing.derive(purpose),
      settings: config.webhooks,
      publicUrl: config.publicUrl,
      limit: config.maxWebhooksPerOwner,
      beatMs: config.sweepMs,
    }));
  // Before the road in this list, so that it is closed after it, when nothing ends any more.
  undo.push(brief(() => webhooks?.close(), WEBHOOKS_MS));

  // The road
  const deliver = new Deliver(pool, tenants);
  let isAlone = true;
  let sweep: Sweep | undefined;
  const bus = await joinHintBus({
    pool,
    databaseUrl,
    redisUrl: config.redisUrl,
    replicaId,
    log,
    handlers: {
      onTasks: (endpointKey, firstSeq) =>
        void guard(dispatch.hinted(endpointKey, firstSeq), "a hint of tasks"),
      onRunnable: (endpointKey, keys) =>
        void guard(dispatch.load(endpointKey, keys), "a hint of runnable tasks"),
      onFinished: (keys) => {
        dispatch.finishedElsewhere(keys);
        void guard(deliver.finishedElsewhere(keys), "a hint of outcomes");
      },
      onCancel: (endpointKey, keys, why) =>
        void guard(
          why === "unbegun" ? dispatch.cancelUnbegun(keys) : dispatch.cancels.here(endpointKey, keys),
          "a hint of a cancel",
        ),
      onClaimed: (endpointKey, epoch) => dispatch.supersede(endpointKey, epoch),
      onAccess: () => void epoch.look(),
      onFollow: (keys) => outputNews.followedElsewhere(keys),
      onOutput: (keys) => outputNews.writtenElsewhere(keys),
      onAsk: (from, n, endpointKey, asked) =>
        void leases
          .tell(from, n, endpointKey, asked)
          .catch((err) => log.warn({ err }, "what an agent leases could not be told to another replica")),
      onAnswer: (n, answer) => leases.told(n, answer),
    },
    // The first beat may tell of others (a replica that was killed a moment ago) before there is a sweep.
    onAlone: (alone) => {
      isAlone = alone;
      sweep?.setAlone(alone);
    },
  });
  undo.push(brief(() => bus.close()));
  epoch.announceBy(() => bus.hints.access());
  const outputNews = new OutputNews({
    follow: (keys) => bus.hints.follow(keys),
    written: (keys) => bus.hints.output(keys),
  });
  const guard = (work: Promise<unknown>, what: string): Promise<unknown> =>
    work.catch((err) => log.warn({ err }, `${what} could not be followed; the sweep will`));

  const dispatch = new Dispatch({
    pool: hot,
    functions,
    access: new RunAccess(endpoints, visible),
    log,
    hints: bus.hints,
    replicaId,
    lose: (queue, lost) => collect.lose(queue, lost),
    onLeft: (endpointKey) => deliver.trails.endpointLeft(endpointKey),
    onEnded: (ended) => {
      webhooks?.ended(ended);
      deliver.publish(
        ended.map((e) => ({
          ...EMPTY_RESULT,
          key: e.key,
          groupKey: e.groupKey,
          state: e.state,
          reason: e.reason,
          attempt: e.attempt,
        })),
      );
    },
  });
  const leases = new LeasedNow({
    pool,
    replicaId,
    hints: bus.hints,
    here: (endpointKey, asked) => dispatch.leasedHere(endpointKey, asked),
  });
  const runnable = async (endpointKey: IdKey, keys: readonly IdKey[]): Promise<void> => {
    await dispatch.load(endpointKey, keys);
    bus.hints.runnable(endpointKey, keys);
  };
  const schedule = (_endpointKey: IdKey, keys: readonly IdKey[], delayMs: number): void => {
    void background.scheduleRelease(keys.map(keyToUuid), delayMs);
  };
  const reattempts = new Reattempts({ pool: hot, log, dispatch, schedule });
  const collect = new Collect({
    pool: hot,
    log,
    dispatch,
    reattempts,
    onCommitted: (rows: readonly OutcomeRow[]) => {
      deliver.publish(rows);
      webhooks?.ended(rows);
      if (!bus.hints.alone) bus.hints.finished(rows.map((row) => row.key));
    },
  });
  const groups = new Groups(pool);
  const intake = new Intake({
    pool: hot,
    log,
    groups,
    budget: new OpenBudget(pool, log, {
      perOwner: config.maxOpenTasksPerOwner,
      perEndpoint: config.maxOpenTasksPerEndpoint,
    }),
    dispatch,
    collect,
    onRepeated: (items) => deliver.publish(items),
    onSubmitted: (groupKey, endpointKey, ownedHere) =>
      deliver.trails.submitted(groupKey, endpointKey, ownedHere),
    onLimited: (inMs) => limitsOfTime.soon(inMs),
    schedule,
  });
  const starts = new StartsWriter(pool, log);
  const output = new OutputWriter({ pool, log, onWritten: (keys) => outputNews.written(keys) });
  const reports = new EndpointReports(pool, log);
  undo.push(brief(() => output.close()));
  sweep = new Sweep({ pool: hot, log, dispatch, deliver, sweepMs: config.sweepMs });
  sweep.setAlone(isAlone);
  const { queueOf, stop, end } = {
    queueOf: (key: IdKey) => dispatch.queueOf(key),
    stop: (key: IdKey, keys: IdKey[]) => dispatch.stop(key, keys),
    end: (keys: readonly IdKey[], how: EndHow) => dispatch.end(keys, how),
  };
  const limitsOfTime = new TimeLimits({ pool: hot, log, queueOf, stop, end });
  const reclaim = new Reclaim({
    pool,
    log,
    lose: (queue, lost) => collect.lose(queue, lost),
    end,
    isOwned: (key) => dispatch.queueOf(key) !== undefined,
  });
  undo.push(
    brief(() => limitsOfTime.close()),
    brief(() => reclaim.close()),
    brief(() => sweep?.close()),
  );
  const background = lateBackground(
    {
      pool,
      log,
      databaseUrl,
      onReleased: (endpointId, taskIds) =>
        runnable(
          uuidToKey(endpointId)!,
          taskIds.map((id) => uuidToKey(id)!),
        ),
      deletePayload: async (ownerId, digest) => void (await payloads.remove(ownerId, digest)),
    },
    { redisUrl: config.redisUrl, retentionMs: config.retentionDays * 86_400_000 },
  );
  undo.push(brief(() => background.close(), BACKGROUND_MS));
  bus.follow();

  // The doors
  const audit = new AuditLog(pool, log);
  undo.push(
    () => audit.close(),
    brief(() => audit.idle()),
  );
  const metrics = new Metrics();
  observeRoad(metrics.registry, { dispatch, intake, collect });
  let draining = false;
  const hosts = new OwnHosts(config);
  const revocations = new Revocations((ids) => identity.ended(ids), epoch, log);
  const app = await buildApp({
    config,
    log,
    prisma,
    pool,
    tenants,
    isWalled,
    identity,
    hosts,
    people,
    functions,
    signatures,
    endpoints,
    payloads,
    objects,
    audit,
    stored: new StoredBytes(pool, log, config.maxStoredMbPerOwner * 1024 ** 2),
    secrets,
    secretUse,
    teams: new Teams(prisma, tenants, epoch),
    accessLists: new AccessLists(prisma, tenants, epoch),
    sharedPayloads: new SharedPayloads(tenants),
    leases,
    reach,
    intake,
    dispatch,
    deliver,
    outputNews,
    webhooks,
    holding: new Holding({ identity, epoch, revocations, publicUrl: config.publicUrl }),
    metrics,
    draining: () => draining,
    ready: async () => !draining && (await pool.query("SELECT 1")).rowCount === 1,
  });
  const sessions = new Set<{ drain(): void }>();
  const agentRevocations = new Revocations((ids) => identity.endedAgents(ids), epoch, log);
  undo.push(
    () => revocations.close(),
    () => agentRevocations.close(),
  );
  const closeDoor = serveLinks(
    app.server,
    [
      {
        path: limits.CLIENT_LINK_PATH,
        admit: async (request) => {
          const { generation } = epoch;
          const { headers } = request;
          const principal = await identity.authenticate(authorizationOf(headers, config.publicUrl));
          // A browser opens a WebSocket to us for whichever page asks it to.
          if (principal.via === "session") requireOrigin(placeOf(config.publicUrl, headers.host), headers);
          if (principal.nested) await identity.nested.requireOpen(principal.nested);
          return { principal, generation, origin: request.socket.remoteAddress ?? "" };
        },
        ownerOf: ({ principal }: Admitted) => principal.ownerId,
        open: (upgraded, { principal, generation, origin }: Admitted) => {
          const session = new ClientSession(upgraded, principal, {
            log,
            intake,
            groups,
            dispatch,
            deliver,
            functions,
            endpoints,
            secretUse,
            nested: identity.nested,
            reach,
            audit: cancelAudit(audit, principal, origin),
            clock,
            onClose: (closed) => {
              sessions.delete(closed);
              revocations.ended(closed);
            },
          });
          sessions.add(session);
          // A running task's token ends with the task, which is looked up at every use.
          if (principal.via !== "task") revocations.opened(session, generation);
        },
      },
      {
        path: limits.AGENT_LINK_PATH,
        admit: async (request) => {
          const { generation } = epoch;
          const { epoch: tokenEpoch, ...who } = await identity.authenticateAgent(
            request.headers.authorization,
          );
          if (tokenEpoch === null) throw new FarloomError("UNAUTHENTICATED");
          return { who: { ...who, epoch: tokenEpoch }, generation };
        },
        ownerOf: ({ who }) => who.ownerId,
        open: (upgraded, { who, generation }: AdmittedAgent) => {
          const session = new AgentSession(upgraded, who, {
            pool,
            signatures,
            log,
            replicaId,
            dispatch,
            collect,
            onStarted: (entries) => {
              starts.add(entries.map((entry) => entry.key));
              deliver.started(entries);
            },
            onProgress: (entry) => deliver.progressed(entry),
            onOutput: (endpointId, pieces) => output.add(endpointId, pieces),
            onReport: ({ endpointKey, epoch: ofEndpoint }, report) => {
              if (!bus.hints.alone) reports.write(endpointKey, ofEndpoint, report);
            },
            onClose: (closed) => {
              sessions.delete(closed);
              agentRevocations.ended(closed);
            },
          });
          sessions.add(session);
          agentRevocations.opened(session, generation);
        },
      },
    ],
    { log, hosts, maxLinks: config.maxLinks, maxLinksPerOwner: config.maxLinksPerOwner },
  );
  undo.push(async () => {
    draining = true;
    closeDoor();
    // Connections end first, so that nothing new comes; what came is committed before the pools end.
    deliver.stopWaiting();
    for (const session of sessions) session.drain();
    await Promise.race([
      Promise.all([intake.idle(), collect.idle()]),
      new Promise((resolve) => setTimeout(resolve, DRAIN_MS)),
    ]);
    intake.close();
    collect.close();
    await Promise.race([dispatch.close(), new Promise((resolve) => setTimeout(resolve, FAREWELL_MS))]);
    dispatch.giveUp();
    payloads.endRetries();
    const closing = app.close();
    await Promise.race([closing, new Promise((resolve) => setTimeout(resolve, CONNECTIONS_MS))]);
    app.server.closeAllConnections();
    await closing;
  });
  await app.listen({ host: config.host, port: config.port });
  const address = app.server.address() as AddressInfo;
  const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
  const url = config.publicUrl ?? `http://${host}:${address.port}`;
  background.start();
  log.info({ url, replica: replicaId, software: SOFTWARE }, "the service is ready");
  return { url, databaseUrl, firstAdminToken: await firstAdminToken(people), close };
}

/** Who comes at the agents' door, and since which state of access they were checked. */
interface AdmittedAgent {
  readonly who: LinkedAgent;
  readonly generation: number;
}

/** Who comes at the clients' door, from where, and since which state of access they were checked. */
interface Admitted {
  readonly principal: Principal;
  readonly generation: number;
  readonly origin: string;
}

/** Cancels that come by a link, in the audit log. */
function cancelAudit(audit: AuditLog, principal: Principal, origin: string): CancelAudit {
  return {
    requireRoom: () => audit.requireRoom(),
    cancelled: (tasks, refused) =>
      void audit.append({
        ownerId: principal.ownerId,
        actor: principal.ownerName,
        credential: principal.keyId,
        action: "tasks.cancel",
        target: "",
        origin,
        status: refused === undefined ? 202 : 403,
        code: refused ?? "",
        detail: JSON.stringify({ tasks }),
      }),
  };
}

const EMPTY_RESULT = {
  source: Buffer.alloc(0),
  start: 0,
  end: 0,
  codec: 1,
  queueUs: 0,
  runUs: 0,
  cpuUs: 0,
  peakKb: 0,
  detail: undefined,
};

/** A step of a stop that waits only so long for PostgreSQL: whatever is not done, the next start or a sweep does. */
function brief(step: () => Promise<unknown> | unknown, ms = BRIEF_MS): () => Promise<unknown> {
  return () => Promise.race([step(), sleep(ms, undefined, { ref: false })]);
}

/** Undoes in reverse order, each step once, whatever the others do. */
function closer(undo: (() => Promise<unknown> | unknown)[], log: Logger): () => Promise<void> {
  let closed: Promise<void> | undefined;
  return () => {
    closed ??= (async () => {
      for (const step of undo.reverse()) {
        try {
          await step();
        } catch (err) {
          log.warn({ err }, "something did not close cleanly");
        }
      }
    })();
    return closed;
  };
}
