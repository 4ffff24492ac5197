/**
 * The HTTP application: plugins, hooks and routes over what is handed in. It owns no state and no process; main.ts
 * and service.ts do. Hooks run in the order of registration: bodies' Accept, host (is it for us), policy
 * (who is it, may they), rate limit, and then the body is read.
 */
import type { Server } from "node:http";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  LogController,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
} from "fastify";
import type pg from "pg";
import { accountRoutes } from "./api/accounts.js";
import { auditRoutes } from "./api/audit.js";
import { endpointKeyRoutes } from "./api/endpoint-keys.js";
import { endpointRoutes } from "./api/endpoints.js";
import { functionSignatureRoutes } from "./api/function-signatures.js";
import { functionRoutes } from "./api/functions.js";
import { groupRoutes } from "./api/groups.js";
import { healthRoutes } from "./api/health.js";
import { keyRoutes } from "./api/keys.js";
import { oauthRoutes } from "./api/oauth.js";
import { objectRoutes } from "./api/objects.js";
import { payloadRoutes } from "./api/payloads.js";
import { secretRoutes } from "./api/secrets.js";
import { sharingRoutes } from "./api/sharing.js";
import { taskRoutes } from "./api/tasks.js";
import { teamRoutes } from "./api/teams.js";
import { webhookRoutes } from "./api/webhooks.js";
import type { AuditLog } from "./audit/log.js";
import { recordRequests } from "./audit/record-requests.js";
import type { Config } from "./config.js";
import type { EndpointRegistry } from "./endpoints/registry.js";
import type { FunctionRegistry } from "./functions/registry.js";
import type { FunctionSignatures } from "./functions/signatures.js";
import type { PrismaClient } from "./generated/prisma/client.js";
import { BODY_LIMIT_BYTES, registerBodies } from "./http/bodies.js";
import { registerDocs } from "./http/docs.js";
import type { Holding } from "./http/holding.js";
import type { Metrics } from "./http/metrics.js";
import type { OwnHosts } from "./http/own-hosts.js";
import { enforcePolicies } from "./http/policy.js";
import { registerProblems } from "./http/problem.js";
import { limitRates } from "./http/rate-limits.js";
import { registerSecurityHeaders } from "./http/security-headers.js";
import { MAX_HEADER_BYTES, refuseBytes, refusePath } from "./http/unrouted.js";
import { registerValidation } from "./http/validation.js";
import type { Identity } from "./identity/identity.js";
import type { People } from "./identity/people.js";
import type { AgentLeases } from "./identity/principal.js";
import type { ObjectStore } from "./objects/store.js";
import { pageRoutes } from "./pages/pages.js";
import type { SharedPayloads } from "./payloads/shared.js";
import type { PayloadStore } from "./payloads/store.js";
import type { StoredBytes } from "./quotas/stored-bytes.js";
import type { SecretStore } from "./secrets/store.js";
import type { SecretUse } from "./secrets/use.js";
import type { AccessLists } from "./sharing/access-lists.js";
import type { Teams } from "./sharing/teams.js";
import type { TenantPool } from "./store/tenant-pool.js";
import type { TaskDeliver, TaskDispatch, TaskIntake, TaskOutputNews } from "./tasks/ports.js";
import type { TaskReach } from "./tasks/reach.js";
import type { Webhooks } from "./webhooks/webhooks.js";

export interface AppDeps {
  readonly config: Config;
  readonly log: FastifyBaseLogger;
  readonly prisma: PrismaClient;
  readonly pool: pg.Pool;
  /** For what one person reads of their own. */
  readonly tenants: TenantPool;
  /** Whether PostgreSQL keeps people's rows apart too. */
  readonly isWalled: boolean;
  readonly identity: Identity;
  readonly hosts: OwnHosts;
  readonly people: People;
  readonly functions: FunctionRegistry;
  readonly signatures: FunctionSignatures;
  readonly endpoints: EndpointRegistry;
  readonly payloads: PayloadStore;
  readonly objects: ObjectStore;
  readonly audit: AuditLog;
  readonly stored: StoredBytes;
  readonly secrets: SecretStore;
  readonly secretUse: SecretUse;
  readonly teams: Teams;
  readonly accessLists: AccessLists;
  readonly sharedPayloads: SharedPayloads;
  readonly leases: AgentLeases;
  readonly reach: TaskReach;
  readonly intake: TaskIntake;
  readonly dispatch: TaskDispatch;
  readonly deliver: TaskDeliver;
  readonly outputNews: TaskOutputNews;
  /** Undefined where the operator wants none. */
  readonly webhooks: Webhooks | undefined;
  /** For requests that wait. */
  readonly holding: Holding;
  readonly metrics: Metrics;
  /** Whether the service takes work: the database answers, and it is not stopping. */
  ready(): Promise<boolean>;
  /** Whether it is stopping: then no connection is kept for another request. */
  draining(): boolean;
}

export type Api = FastifyInstance<
  Server,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** Time for all of a request to arrive: 5 GiB at 1.5 MB/s. */
const REQUEST_TIMEOUT_MS = 3_600_000;

/** The application, not yet listening. Rejects where a route declares no policy. */
export async function buildApp(deps: AppDeps): Promise<Api> {
  const { config, log, identity, hosts, metrics } = deps;
  const app: Api = fastify({
    loggerInstance: log,
    // Every request is counted in the metrics; only failures are worth a line.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: 75_000,
    routerOptions: { maxParamLength: 400 },
    // Long polls end by themselves when the service stops; idle connections are closed at once.
    forceCloseConnections: "idle",
    http: { headersTimeout: 10_000, maxHeaderSize: MAX_HEADER_BYTES },
    frameworkErrors: refusePath,
    clientErrorHandler: refuseBytes,
    ...(config.trustedProxies.length > 0 && { trustProxy: [...config.trustedProxies] }),
  }).withTypeProvider<TypeBoxTypeProvider>();

  // A long poll that ends with the service would otherwise leave its connection open behind it.
  app.addHook("onSend", async (_request, reply) => {
    if (deps.draining()) reply.header("connection", "close");
  });
  registerProblems(app);
  registerValidation(app);
  registerBodies(app);
  registerSecurityHeaders(app);
  app.addHook("onRequest", async (request) =>
    hosts.require(request.headers.host, request.socket.localAddress),
  );
  enforcePolicies(app, identity, config);
  limitRates(app, config);
  recordRequests(app, deps.audit);
  metrics.observe(app);
  await registerDocs(app);

  healthRoutes(app, deps);
  keyRoutes(app, deps);
  oauthRoutes(app, deps);
  accountRoutes(app, deps);
  pageRoutes(app, deps);
  functionRoutes(app, deps);
  functionSignatureRoutes(app, deps);
  endpointRoutes(app, deps);
  endpointKeyRoutes(app, deps);
  teamRoutes(app, deps);
  sharingRoutes(app, deps);
  secretRoutes(app, deps);
  taskRoutes(app, deps);
  groupRoutes(app, deps);
  payloadRoutes(app, deps);
  objectRoutes(app, deps);
  webhookRoutes(app, deps);
  auditRoutes(app, deps);
  return app;
}
