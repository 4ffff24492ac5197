/**
 * Requests to the REST API over kept-alive connections: authentication, problem documents as errors, and
 * waiting by itself where the service says that the same request may succeed later (Retry-After).
 *
 * node:http and not fetch: a megabyte up takes a third of its CPU, down somewhat less (bench/rest-transport.mjs).
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { FarloomError, limits } from "@farloom/protocol";
import { mayRetry } from "./errors.js";
import { backoffMs, sleep } from "./link/backoff.js";
import { connectionErrorText, parseProblem } from "./problem.js";

export interface RestOptions {
  readonly url: string;
  readonly apiKey: string;
  readonly software: string;
  /** How often a request is tried. */
  readonly attempts: number;
}

export interface RestRequest {
  readonly method?: "GET" | "POST" | "PUT" | "DELETE" | "HEAD";
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is. */
  readonly body?: Buffer;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** How long the answer may take; long polls say theirs. Default: 60,000. */
  readonly timeoutMs?: number;
  /** Whether the same request may be sent twice. Default: all but POST. */
  readonly idempotent?: boolean;
}

export interface RestResponse {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

/** Connections at once; more would only queue on the other side. */
const MAX_SOCKETS = 16;
const REQUEST_TIMEOUT_MS = 60_000;

export class Rest {
  readonly #options: RestOptions;
  readonly #base: URL;
  readonly #prefix: string;
  readonly #agent: HttpAgent | HttpsAgent;
  readonly #isHttps: boolean;

  constructor(options: RestOptions) {
    this.#options = options;
    this.#base = new URL(options.url);
    this.#prefix = this.#base.pathname.replace(/\/+$/, "");
    this.#isHttps = this.#base.protocol === "https:";
    const pool = { keepAlive: true, maxSockets: MAX_SOCKETS, maxFreeSockets: MAX_SOCKETS };
    this.#agent = this.#isHttps ? new HttpsAgent(pool) : new HttpAgent(pool);
  }

  /** The answer's JSON. */
  async json<T>(request: RestRequest): Promise<T> {
    const response = await this.send(request);
    return (response.body.length === 0 ? undefined : JSON.parse(response.body.toString("utf8"))) as T;
  }

  /** The answer, where it is a success; its error is thrown otherwise, after the tries that make sense. */
  async send(request: RestRequest): Promise<RestResponse> {
    const idempotent = request.idempotent ?? request.method !== "POST";
    for (let attempt = 0; ; attempt++) {
      try {
        const response = await this.#once(request);
        if (response.status < 300) return response;
        throw parseProblem(response.status, response.body, response.headers["retry-after"]);
      } catch (error) {
        if (request.signal?.aborted) throw request.signal.reason;
        // A 429 or 503 of the service took nothing; a broken connection may have, so only what can be repeated is.
        const again =
          mayRetry(error) && (idempotent || (error as FarloomError).code !== "SERVICE_UNREACHABLE");
        if (!again || attempt + 1 >= this.#options.attempts) throw error;
        await sleep(Math.max((error as FarloomError).retryAfterMs ?? 0, backoffMs(attempt)), request.signal);
      }
    }
  }

  close(): void {
    this.#agent.destroy();
  }

  #once(request: RestRequest): Promise<RestResponse> {
    const payload = request.json === undefined ? request.body : Buffer.from(JSON.stringify(request.json));
    const headers: Record<string, string | number> = {
      authorization: `Bearer ${this.#options.apiKey}`,
      "user-agent": this.#options.software,
      accept: "application/json, application/problem+json, */*",
      ...request.headers,
    };
    if (payload !== undefined) {
      headers["content-length"] = payload.length;
      headers["content-type"] ??=
        request.json === undefined ? "application/octet-stream" : "application/json";
    }
    return new Promise((resolve, reject) => {
      const outgoing = (this.#isHttps ? httpsRequest : httpRequest)({
        protocol: this.#base.protocol,
        hostname: this.#base.hostname.replace(/^\[|\]$/g, ""),
        port: this.#base.port,
        method: request.method ?? "GET",
        path: this.#prefix + request.path + queryString(request.query),
        headers,
        agent: this.#agent,
        ...(request.signal && { signal: request.signal }),
        timeout: request.timeoutMs ?? REQUEST_TIMEOUT_MS,
      });
      const fail = (cause: Error) =>
        reject(
          new FarloomError(
            "SERVICE_UNREACHABLE",
            { url: this.#options.url, detail: connectionErrorText(cause) },
            { cause },
          ),
        );
      outgoing.on("timeout", () => outgoing.destroy(new Error("no answer in time")));
      outgoing.on("error", fail);
      outgoing.on("response", (response) => collect(response, resolve, fail));
      outgoing.end(payload);
    });
  }
}

/** The whole body, into one buffer of the announced size where there is one: no second copy. */
function collect(
  response: IncomingMessage,
  resolve: (r: RestResponse) => void,
  reject: (e: Error) => void,
): void {
  const announced = Number(response.headers["content-length"]);
  const whole =
    announced > 0 && announced <= limits.MAX_PAYLOAD_BYTES ? Buffer.allocUnsafe(announced) : undefined;
  const chunks: Buffer[] = [];
  let size = 0;
  response.on("data", (chunk: Buffer) => {
    if (whole !== undefined && size + chunk.length <= whole.length) chunk.copy(whole, size);
    else chunks.push(chunk);
    size += chunk.length;
    if (size > limits.MAX_PAYLOAD_BYTES) response.destroy(new Error("the answer is larger than any payload"));
  });
  response.on("error", reject);
  response.on("end", () => {
    const body = whole === undefined ? Buffer.concat(chunks) : whole.subarray(0, size);
    resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
  });
}

function queryString(query: RestRequest["query"]): string {
  if (query === undefined) return "";
  const pairs = Object.entries(query).filter(([, v]) => v !== undefined);
  if (pairs.length === 0) return "";
  return `?${pairs.map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(String(v))}`).join("&")}`;
}
