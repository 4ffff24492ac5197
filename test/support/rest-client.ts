/** A client that speaks to the service as curl would: nothing of our SDK. */
import { decodeBounded, encodeValue } from "@farloom/protocol";
import { findSecrets } from "./secret-watch.js";

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
