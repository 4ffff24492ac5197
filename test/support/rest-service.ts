// A whole web service in this process, over a database of its own.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConfigOptions, type RunningService, resolveConfig, startService } from "@farloom/web-service";
import { pino } from "pino";
import { freshDatabase, type TestDatabase } from "./postgres.js";
import { RestClient } from "./rest-client.js";
import { SecretWatch } from "./secret-watch.js";

export interface RestService {
  readonly url: string;
  readonly stateDir: string;
  readonly database: TestDatabase;
  readonly service: RunningService;
  /** The bootstrap owner's key: administrator, every scope. */
  readonly key: string;
  /** Speaks as the bootstrap owner. */
  readonly api: RestClient;
  close(): Promise<void>;
}

/** Starts one; call it in `beforeAll`, and `close()` in `afterAll`. */
export async function startRestService(options: ConfigOptions = {}): Promise<RestService> {
  const database = await freshDatabase();
  const stateDir = await mkdtemp(join(tmpdir(), "farloom-rest-"));
  const bootstrapKeyFile = join(stateDir, "first.key");
  const config = resolveConfig(
    {
      port: 0,
      host: "127.0.0.1",
      databaseUrl: database.url,
      // A database that the test brings has no role of ours.
      tenantDatabaseUrl: options.databaseUrl === undefined ? database.tenantUrl : undefined,
      stateDir,
      bootstrapKeyFile,
      ...options,
    },
    {},
  );
  const secrets = new SecretWatch();
  secrets.knowUrl(database.url);
  const log = pino({ level: process.env.FARLOOM_TEST_LOG ?? "info" }, lookedAt(secrets));
  const service = await startService(config, log);
  const key = (await readFile(bootstrapKeyFile, "utf8")).trim();
  return {
    url: service.url,
    stateDir,
    database,
    service,
    key,
    api: new RestClient(service.url, key),
    async close() {
      await service.close();
      await database.drop();
      await rm(stateDir, { recursive: true, force: true });
      const { findings } = secrets;
      if (findings.length > 0) throw new Error(`secrets were told:\n${findings.join("\n")}`);
    },
  };
}

/** Where a service of this process logs to: it is looked at, and shown only where a level is asked for. */
function lookedAt(secrets: SecretWatch): { write(line: string): void } {
  return {
    write(line) {
      secrets.look("the service's log", line);
      if (process.env.FARLOOM_TEST_LOG !== undefined) process.stdout.write(line);
    },
  };
}
