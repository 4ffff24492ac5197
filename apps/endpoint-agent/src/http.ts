/**
 * The little HTTP that an agent speaks: JSON for enrolment and sessions, streams for payload files. On
 * node:http itself, so that uploads announce their length and nothing is buffered.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { proxyAgentOf } from "./proxy.js";

/** A JSON answer of the service is small; more than this is not one. */
const MAX_JSON_BYTES = 256 * 1024;

export interface HttpOptions {
  readonly method: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent whole, or by a call that writes so many bytes and ends the request. */
  readonly body?:
    | Buffer
    | { readonly write: (request: ClientRequest) => Promise<void>; readonly sizeBytes: number };
  readonly signal?: AbortSignal;
  /** Of a JSON answer; default MAX_JSON_BYTES. */
  readonly mostBytes?: number;
  /** Longest silence of the socket. */
  readonly idleTimeoutMs?: number;
}

/** What the service said no with. `status` 0: it could not be reached. */
export class HttpFailure extends Error {
  override readonly name = "HttpFailure";
  readonly status: number;
  readonly code: string;
  readonly retryAfterMs: number | undefined;
  constructor(
    failure: { status: number; code: string; message: string; retryAfterMs?: number | undefined },
    cause?: unknown,
  ) {
    super(failure.message, cause === undefined ? undefined : { cause });
    this.status = failure.status;
    this.code = failure.code;
    this.retryAfterMs = failure.retryAfterMs;
  }
}

/** One request; the response's body is still to be read. */
export async function http(url: URL, options: HttpOptions): Promise<IncomingMessage> {
  const { body } = options;
  const headers: Record<string, string> = { ...options.headers };
  if (body) headers["content-length"] = String(Buffer.isBuffer(body) ? body.length : body.sizeBytes);
  const send = url.protocol === "https:" ? httpsRequest : httpRequest;
  const agent = proxyAgentOf(url);
  let request: ClientRequest | undefined;
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    request = send(url, {
      method: options.method,
      headers,
      ...(agent ? { agent } : {}),
      ...(options.signal ? { signal: options.signal } : {}),
      timeout: options.idleTimeoutMs ?? 15_000,
    });
    request.once("response", resolve);
    request.once("error", reject);
    request.once("timeout", () => request?.destroy(new Error("the service does not answer")));
  });
  if (body && !Buffer.isBuffer(body)) {
    // The service may answer before it has read everything (it refuses, or has the file): then writing fails, and the
    // answer counts.
    body.write(request!).catch((error: Error) => request?.destroy(error));
  } else request!.end(body);
  try {
    return await answered;
  } catch (error) {
    const detail = (error as Error).message || (error as NodeJS.ErrnoException).code || "no connection";
    throw new HttpFailure(
      {
        status: 0,
        code: "SERVICE_UNREACHABLE",
        message: `the service at ${url.origin} cannot be reached: ${detail}`,
      },
      error,
    );
  }
}

/** One request with JSON in and out. Throws HttpFailure for every answer that is not 2xx. */
export async function httpJson<T>(url: URL, options: HttpOptions & { readonly json?: unknown }): Promise<T> {
  const { json, ...rest } = options;
  const response = await http(url, {
    ...rest,
    ...(json === undefined ? {} : { body: Buffer.from(JSON.stringify(json)) }),
    headers: { accept: "application/json", ...(json === undefined ? {} : JSON_HEADERS), ...options.headers },
  });
  if (!isOk(response)) throw await failureOf(url, response);
  return parseJson<T>(url, await readText(response, options.mostBytes));
}

/**
 * The response's body into `buffer`; how many bytes came. Rejects where more come than it holds, or the connection
 * ends before the announced length.
 */
export function readInto(response: IncomingMessage, buffer: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    let filled = 0;
    response.on("data", (chunk: Buffer) => {
      if (filled + chunk.length > buffer.length) {
        response.destroy(new Error(`the answer has more than ${buffer.length} bytes`));
        return;
      }
      chunk.copy(buffer, filled);
      filled += chunk.length;
    });
    response.once("end", () => resolve(filled));
    response.once("error", reject);
  });
}

/** Whether the request that this answers has been written to its end: nothing reads its body any more. */
export function isRequestSent(response: IncomingMessage): boolean {
  // Node documents `req` on the client's side; its types do not know it.
  return (response as IncomingMessage & { readonly req: ClientRequest }).req.writableFinished;
}

const JSON_HEADERS = { "content-type": "application/json" };

export function isOk(response: IncomingMessage): boolean {
  const status = response.statusCode ?? 0;
  return status >= 200 && status < 300;
}

/** The failure that a response stands for; reads its body. */
export async function failureOf(url: URL, response: IncomingMessage): Promise<HttpFailure> {
  const status = response.statusCode ?? 0;
  let error: { code?: string; message?: string; detail?: string } = {};
  try {
    const value = JSON.parse(await readText(response)) as { error?: typeof error } & typeof error;
    error = value.error ?? value;
  } catch {
    // Not ours: a proxy's page, perhaps. The status says what there is to say.
  }
  const seconds = Number(response.headers["retry-after"]);
  return new HttpFailure({
    status,
    code: typeof error.code === "string" ? error.code : `HTTP_${status}`,
    message:
      [error.detail, error.message].find((text) => typeof text === "string") ??
      `${url.origin} answered ${status} for ${url.pathname}`,
    retryAfterMs: Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : undefined,
  });
}

async function readText(response: IncomingMessage, mostBytes = MAX_JSON_BYTES): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostBytes) {
      response.destroy();
      break;
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parseJson<T>(url: URL, text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new HttpFailure(
      {
        status: 0,
        code: "SERVICE_UNREACHABLE",
        message: `${url.origin} did not answer with JSON: is it a Farloom service?`,
      },
      error,
    );
  }
}

/** Resolves after `ms`, or at once when `signal` fires. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
