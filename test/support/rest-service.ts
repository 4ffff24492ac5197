// A whole web service over a database of its own, and a client that speaks to it as curl would: nothing of our SDK.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeBounded, encodeValue } from "@farloom/protocol";
import { pino } from "pino";
import { type ConfigOptions, resolveConfig } from "../../apps/web-service/src/config.js";
import { type RunningService, startService } from "../../apps/web-service/src/service.js";
import { freshDatabase, type TestDatabase } from "./postgres.js";
import { findSecrets, SecretWatch } from "./secret-watch.js";

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

export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies of every shape.
  readonly body: any;
}

export interface CallOptions {
  /** Sent as JSON, or as MessagePack where `msgpack` is set. */
  readonly json?: unknown;
  readonly raw?: string | Buffer | ReadableStream;
  readonly headers?: Record<string, string>;
  /** MessagePack both ways. */
  readonly msgpack?: boolean;
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

/** One caller, or nobody where `credential` is undefined. A secret in a path or in an error throws. */
export class RestClient {
  readonly url: string;
  readonly credential: string | undefined;

  constructor(url: string, credential: string | undefined) {
    this.url = url;
    this.credential = credential;
  }

  get = (path: string, options?: CallOptions): Promise<Reply> => this.call("GET", path, options);
  post = (path: string, json?: unknown, options?: CallOptions): Promise<Reply> =>
    this.call("POST", path, { ...options, ...(json === undefined ? {} : { json }) });
  delete = (path: string, options?: CallOptions): Promise<Reply> => this.call("DELETE", path, options);

  async call(method: string, path: string, options: CallOptions = {}): Promise<Reply> {
    const headers: Record<string, string> = { ...options.headers };
    if (this.credential !== undefined) headers.authorization ??= `Bearer ${this.credential}`;
    if (options.msgpack) headers.accept ??= "application/msgpack";
    let body: string | Buffer | ReadableStream | undefined = options.raw;
    if (options.json !== undefined) {
      body = options.msgpack ? encodeValue(options.json) : JSON.stringify(options.json);
      headers["content-type"] ??= options.msgpack ? "application/msgpack" : "application/json";
    }
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: body as never, duplex: "half" as never }),
    });
    const bytes = Buffer.from(await response.arrayBuffer());
    const told = findSecrets("a path", path);
    if (response.status >= 400) told.push(...findSecrets("an error", bytes.toString("latin1")));
    if (told.length > 0)
      throw new Error(`${method} tells ${told.map(({ kind, where }) => `${kind} in ${where}`)}`);
    return { status: response.status, headers: response.headers, body: decodeBody(response, bytes) };
  }
}

function decodeBody(response: Response, bytes: Buffer): unknown {
  const type = response.headers.get("content-type") ?? "";
  if (bytes.length === 0) return undefined;
  if (type.includes("json")) return JSON.parse(bytes.toString("utf8"));
  if (!type.includes("msgpack")) return bytes;
  const decoded = decodeBounded(bytes, { maxBytes: 1e8, maxDepth: 100, maxElements: 1e7 });
  if (!decoded.ok) throw new Error(decoded.reason);
  return decoded.value;
}
