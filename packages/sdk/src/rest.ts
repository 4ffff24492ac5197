/**
 * Requests to the REST API over kept-alive connections: authentication, problem documents as errors, and
 * waiting by itself where the service says that the same request may succeed later (Retry-After).
 *
 * node:http and not fetch: a megabyte up takes a third of its CPU, down somewhat less (bench/rest-transport.mjs).
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import { mayRetry } from "./errors.js";
import { backoffMs, sleep } from "./link/backoff.js";
import type { Credential } from "./login.js";
import { connectionErrorText, parseProblem } from "./problem.js";

export interface RestOptions {
  readonly url: string;
  readonly apiKey: string;
  /** Instead of the API key. */
  readonly login?: Credential | undefined;
  readonly software: string;
  /** How often a request is tried. */
  readonly attempts: number;
}

export interface RestRequest {
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD";
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

/** A request whose body and answer are streamed. */
export interface StreamRequest extends Omit<RestRequest, "json" | "body" | "idempotent"> {
  /** Makes the body anew for each try; undefined: none. One that can be made once throws at the second try. */
  readonly stream?: (() => Readable) | undefined;
  /** The body's size where it is known; it then travels with Content-Length. */
  readonly sizeBytes?: number | undefined;
  /** Whether the body can be sent twice. Default: true. */
  readonly repeatable?: boolean;
}

export interface StreamResponse {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  /** Must be read or destroyed. */
  readonly body: IncomingMessage;
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
  send(request: RestRequest): Promise<RestResponse> {
    const idempotent = request.idempotent ?? request.method !== "POST";
    return this.#tries(request.signal, idempotent ? "all" : "refusals", async () => {
      const response = await this.#once(request);
      if (response.status < 300) return response;
      throw parseProblem(response.status, response.body, response.headers["retry-after"]);
    });
  }

  /** As `send`, with bodies that are never in memory whole. An answer of 304 is a success too. */
  open(request: StreamRequest): Promise<StreamResponse> {
    const { stream, repeatable = true } = request;
    return this.#tries(request.signal, repeatable ? "all" : "none", async () => {
      const body = await this.#exchange(request, stream?.(), request.sizeBytes);
      const { statusCode: status = 0, headers } = body;
      if (status < 300 || status === 304) return { status, headers, body };
      const problem = await this.#whole(body);
      throw parseProblem(status, problem.body, headers["retry-after"]);
    });
  }

  async #tries<T>(
    signal: AbortSignal | undefined,
    repeat: "all" | "refusals" | "none",
    once: () => Promise<T>,
  ): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await once();
      } catch (error) {
        if (signal?.aborted) throw signal.reason;
        if ((error as FarloomError).code === "TOKEN_EXPIRED") this.#options.login?.expired();
        // A 429 or 503 of the service took nothing; a broken connection may have, so only what can be repeated is.
        const may = repeat === "all" || (error as FarloomError).code !== "SERVICE_UNREACHABLE";
        const again = repeat !== "none" && mayRetry(error) && may;
        if (!again || attempt + 1 >= this.#options.attempts) throw error;
        await sleep(Math.max((error as FarloomError).retryAfterMs ?? 0, backoffMs(attempt)), signal);
      }
    }
  }

  close(): void {
    this.#agent.destroy();
  }

  async #once(request: RestRequest): Promise<RestResponse> {
    const payload = request.json === undefined ? request.body : Buffer.from(JSON.stringify(request.json));
    const type = request.json === undefined ? "application/octet-stream" : "application/json";
    const headers = payload === undefined ? {} : { "content-type": type };
    const response = await this.#exchange(
      { ...request, headers: { ...headers, ...request.headers } },
      payload,
      payload?.length,
    );
    return this.#whole(response);
  }

  #whole(response: IncomingMessage): Promise<RestResponse> {
    return new Promise((resolve, reject) =>
      collect(response, resolve, (cause) => reject(this.#unreachable(cause))),
    );
  }

  /** One request, to its answer's headers. An answer that comes before the body has gone ends the sending. */
  async #exchange(
    request: RestRequest | StreamRequest,
    payload: Buffer | Readable | undefined,
    sizeBytes: number | undefined,
  ): Promise<IncomingMessage> {
    const { apiKey, login } = this.#options;
    const bearer = login === undefined ? apiKey : (login.current ?? (await login.get()));
    const headers: Record<string, string | number> = {
      authorization: `Bearer ${bearer}`,
      "user-agent": this.#options.software,
      accept: "application/json, application/problem+json, */*",
      ...(sizeBytes !== undefined && { "content-length": sizeBytes }),
      ...request.headers,
    };
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
      outgoing.on("timeout", () => outgoing.destroy(new Error("no answer in time")));
      outgoing.on("error", (cause) => reject(this.#unreachable(cause)));
      outgoing.on("response", (response) => {
        // The rest of a body that was refused is not sent, and its connection is no use to another request.
        if (!outgoing.writableEnded) response.once("close", () => outgoing.destroy());
        resolve(response);
      });
      if (payload === undefined || Buffer.isBuffer(payload)) {
        outgoing.end(payload);
        return;
      }
      const stop = () => payload.destroy();
      outgoing.once("response", stop).once("close", stop);
      payload.once("error", (error) => {
        reject(error);
        outgoing.destroy();
      });
      payload.pipe(outgoing);
    });
  }

  #unreachable(cause: Error): FarloomError {
    const { url } = this.#options;
    return new FarloomError("SERVICE_UNREACHABLE", { url, detail: connectionErrorText(cause) }, { cause });
  }
}

/** The whole body, into one buffer of the announced size where there is one: no second copy. */
function collect(
  response: IncomingMessage,
  resolve: (r: RestResponse) => void,
  reject: (e: Error) => void,
): void {
  const announced = Number(response.headers["content-length"]);
  let whole: Buffer | undefined;
  const chunks: Buffer[] = [];
  let size = 0;
  response.on("data", (chunk: Buffer) => {
    // Not before: an answer to HEAD announces what does not come.
    if (size === 0 && announced > 0 && announced <= limits.MAX_PAYLOAD_BYTES)
      whole = Buffer.allocUnsafe(announced);
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
