/**
 * Objects: named bytes in buckets, up to 5 GiB each, never in memory whole unless asked for. A download that is cut goes
 * on where it was, with the same bytes or not at all; what has come is compared with the object's SHA-256.
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { rename, rm, stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { FarloomError } from "@farloom/protocol";
import { mayRetry } from "./errors.js";
import { backoffMs, sleep } from "./link/backoff.js";
import type { Rest, StreamResponse } from "./rest.js";

export interface ObjectInfo {
  readonly bucket: string;
  readonly key: string;
  readonly sizeBytes: number;
  /** SHA-256 of the bytes, 64 hexadecimal digits; for `ifMatch` and `ifNoneMatch`. */
  readonly digest: string;
  readonly contentType: string;
  /** What the writer wrote beside it: names in lower case, texts in ASCII, 2 KiB in all. */
  readonly metadata: Readonly<Record<string, string>>;
  /** RFC 3339. From `get` and `head` in whole seconds. */
  readonly modifiedAt: string;
}

type Signal = { readonly signal?: AbortSignal | undefined };

export interface PutOptions extends Signal {
  /** Default: `application/octet-stream`. */
  readonly contentType?: string | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Replace only the object of this digest; PRECONDITION_FAILED otherwise. */
  readonly ifMatch?: string | undefined;
  /** `*`: only where there is none yet. */
  readonly ifNoneMatch?: string | undefined;
  /** Of a stream, where it is known. */
  readonly sizeBytes?: number | undefined;
}

/** Bytes, counted from 0, both ends inclusive as in HTTP; or the last so many. */
export type ObjectRange =
  | { readonly start: number; readonly end?: number | undefined }
  | { readonly last: number };

export interface GetOptions extends Signal {
  readonly range?: ObjectRange | undefined;
  readonly ifMatch?: string | undefined;
}

/** What can be stored. A function is called for each try; a stream can be sent once, so a cut is told and not mended. */
export type ObjectBody = Uint8Array | string | Readable | AsyncIterable<Uint8Array> | (() => Readable);

/** An object on its way here. `body` must be read or destroyed; `bytes` and `text` read it whole. */
export interface ReceivedObject extends ObjectInfo {
  readonly body: Readable;
  bytes(): Promise<Buffer>;
  text(): Promise<string>;
}

export interface ObjectPage {
  readonly items: ObjectInfo[];
  /** With a delimiter: what keys that go on behind it have in common. */
  readonly prefixes: string[];
  readonly nextCursor?: string | null;
}

export interface ListObjectsOptions extends Signal {
  readonly prefix?: string | undefined;
  readonly delimiter?: string | undefined;
  readonly cursor?: string | undefined;
  /** At most 1,000, the default. */
  readonly limit?: number | undefined;
}

export type ObjectMethod = "get" | "head" | "list" | "put" | "delete";

export interface ObjectToken {
  /** For an `Authorization: Bearer` header, or as the `apiKey` of a client that does nothing else. */
  readonly token: string;
  readonly expiresInMs: number;
  /** What it is for, percent-encoded. */
  readonly path: string;
  readonly url?: string;
}

/** Syncing 5 GiB to a slow disk takes a while after the last byte. */
const PUT_TIMEOUT_MS = 600_000;
/** Cuts in a row without a byte between them, after which a download is given up. */
const MAX_CUTS = 5;
const META = "x-farloom-meta-";
const READ_BYTES = 256 * 1024;
/** What is sent again where a connection breaks: half a minute at 2 MB/s. 5 GiB are 80 parts, of the 1,000 that may be. */
const PART_BYTES = 64 * 1024 * 1024;
/** Leaves room in a key of 1,024 bytes for what a part's name adds. */
const MAX_KEY_BYTES_IN_PARTS = 990;

interface LargeFile {
  readonly bucket: string;
  readonly key: string;
  readonly path: string;
  readonly size: number;
  readonly partBytes: number;
  /** Another for a file that was changed. */
  readonly stamp: string;
}

export class ObjectsApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  /** Stores an object, or replaces it whole. Durable when this resolves. @throws FarloomError OBJECT_MISMATCH */
  async put(bucket: string, key: string, body: ObjectBody, options: PutOptions = {}): Promise<ObjectInfo> {
    const bytes =
      typeof body === "string" ? Buffer.from(body) : body instanceof Uint8Array ? asBuffer(body) : undefined;
    const make =
      bytes !== undefined
        ? () => Readable.from(slices(bytes), { objectMode: false })
        : typeof body === "function"
          ? body
          : () => (body instanceof Readable ? body : Readable.from(body as AsyncIterable<Uint8Array>));
    let hash = createHash("sha256");
    const response = await this.#rest.open({
      method: "PUT",
      path: pathOf(bucket, key),
      headers: putHeaders(options),
      stream: () => {
        hash = createHash("sha256");
        return make().on("data", (chunk: Buffer) => hash.update(chunk));
      },
      sizeBytes: bytes?.length ?? options.sizeBytes,
      repeatable: bytes !== undefined || typeof body === "function",
      signal: options.signal,
      timeoutMs: PUT_TIMEOUT_MS,
    });
    const info = JSON.parse((await collect(response.body)).toString("utf8")) as ObjectInfo;
    verify(hash.digest("hex"), info.digest);
    return info;
  }

  /**
   * A file of this machine. One above `partBytes` goes in parts, `KEY.parts/…`, which become one object at the end; a
   * part whose connection breaks is sent again alone, and a second call after a crash sends only what is missing.
   */
  async putFile(
    bucket: string,
    key: string,
    path: string,
    options: PutOptions & { readonly partBytes?: number } = {},
  ): Promise<ObjectInfo> {
    const { size, mtimeMs } = await stat(path);
    const { partBytes = PART_BYTES } = options;
    if (size > partBytes && Buffer.byteLength(key) <= MAX_KEY_BYTES_IN_PARTS)
      return this.#putParts({ bucket, key, path, size, partBytes, stamp: `${size} ${mtimeMs}` }, options);
    return this.put(bucket, key, () => createReadStream(path, { highWaterMark: READ_BYTES }), {
      ...options,
      sizeBytes: size,
    });
  }

  async #putParts(file: LargeFile, options: PutOptions): Promise<ObjectInfo> {
    const { bucket, key, path, size, partBytes } = file;
    const { signal } = options;
    // The same file, unchanged, finds its parts again.
    const id = createHash("sha256").update(`${file.stamp} ${partBytes}`).digest("hex").slice(0, 16);
    const prefix = `${key}.parts/${id}/`;
    const there = new Map<string, string>();
    for await (const part of this.all(bucket, { prefix, signal })) there.set(part.key, part.digest);
    const whole = createHash("sha256");
    const from: string[] = [];
    for (let start = 0; start < size; start += partBytes) {
      const end = Math.min(start + partBytes, size) - 1;
      const read = () => createReadStream(path, { start, end, highWaterMark: READ_BYTES });
      const part = createHash("sha256");
      for await (const chunk of read() as AsyncIterable<Buffer>) {
        whole.update(chunk);
        part.update(chunk);
      }
      const name = `${prefix}${String(from.length).padStart(5, "0")}`;
      if (there.get(name) !== part.digest("hex"))
        await this.put(bucket, name, read, { sizeBytes: end - start + 1, signal });
      from.push(name);
    }
    const { contentType, metadata, ifMatch, ifNoneMatch } = options;
    const { "content-type": _type, ...conditions } = putHeaders({ ifMatch, ifNoneMatch });
    return this.#rest.json({
      method: "POST",
      path: `/v1/objects/${encodeURIComponent(bucket)}/compose`,
      json: { key, from, removeSources: true, digest: whole.digest("hex"), contentType, metadata },
      headers: conditions,
      signal,
      timeoutMs: PUT_TIMEOUT_MS,
    });
  }

  /** Resolves when the headers are there; the bytes come as `body` is read. */
  async get(bucket: string, key: string, options: GetOptions = {}): Promise<ReceivedObject> {
    const { signal } = options;
    const open = (range: string | undefined, ifMatch: string | undefined) =>
      this.#rest.open({
        path: pathOf(bucket, key),
        headers: { ...(range && { range }), ...(ifMatch && { "if-match": ifMatch }) },
        signal,
      });
    const first = await open(rangeHeader(options.range), tagOf(options.ifMatch));
    const info = infoOf(bucket, key, first);
    const body = Readable.from(resumed(first, info, open, signal), { objectMode: false });
    return {
      ...info,
      body,
      bytes: () => collect(body),
      text: async () => (await collect(body)).toString("utf8"),
    };
  }

  /** Into a file, which appears when all of it has come and is what the service has. */
  async getFile(bucket: string, key: string, path: string, options: GetOptions = {}): Promise<ObjectInfo> {
    const { body, bytes: _bytes, text: _text, ...info } = await this.get(bucket, key, options);
    const part = `${path}.${randomBytes(6).toString("hex")}.part`;
    try {
      await pipeline(body, createWriteStream(part, { flags: "wx", flush: true }), {
        ...(options.signal && { signal: options.signal }),
      });
      await rename(part, path);
      return info;
    } finally {
      await rm(part, { force: true });
    }
  }

  /** @throws FarloomError OBJECT_NOT_FOUND */
  async head(bucket: string, key: string, { signal }: Signal = {}): Promise<ObjectInfo> {
    try {
      const response = await this.#rest.send({ method: "HEAD", path: pathOf(bucket, key), signal });
      return infoOf(bucket, key, response);
    } catch (error) {
      // An answer to HEAD has no body that could say what is missing.
      if ((error as FarloomError).status !== 404) throw error;
      throw new FarloomError("OBJECT_NOT_FOUND", { name: `${bucket}/${key}` }, { cause: error });
    }
  }

  async exists(bucket: string, key: string, options: Signal = {}): Promise<boolean> {
    try {
      await this.head(bucket, key, options);
      return true;
    } catch (error) {
      if ((error as FarloomError).code === "OBJECT_NOT_FOUND") return false;
      throw error;
    }
  }

  /** One that is not there is no error, unless `ifMatch` names it. */
  async delete(
    bucket: string,
    key: string,
    { ifMatch, signal }: Signal & { readonly ifMatch?: string } = {},
  ): Promise<void> {
    const tag = tagOf(ifMatch);
    await this.#rest.send({
      method: "DELETE",
      path: pathOf(bucket, key),
      headers: tag === undefined ? {} : { "if-match": tag },
      signal,
    });
  }

  /** At most 1,000 keys at once. */
  deleteMany(
    bucket: string,
    keys: readonly string[],
    { signal }: Signal = {},
  ): Promise<{ readonly deleted: number }> {
    const path = `/v1/objects/${encodeURIComponent(bucket)}/delete`;
    return this.#rest.json({ method: "POST", path, json: { keys }, signal, idempotent: true });
  }

  /** In the order of the keys' bytes. */
  list(bucket: string, { signal, ...query }: ListObjectsOptions = {}): Promise<ObjectPage> {
    return this.#rest.json({
      path: `/v1/objects/${encodeURIComponent(bucket)}`,
      query: { ...query },
      signal,
    });
  }

  async *all(
    bucket: string,
    options: Omit<ListObjectsOptions, "cursor" | "delimiter"> = {},
  ): AsyncGenerator<ObjectInfo> {
    let cursor: string | undefined;
    do {
      const page = await this.list(bucket, { ...options, cursor });
      yield* page.items;
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
  }

  /** The buckets that have an object, at most 1,000. */
  async buckets({ signal }: Signal = {}): Promise<string[]> {
    const { items } = await this.#rest.json<{ items: { name: string }[] }>({ path: "/v1/objects", signal });
    return items.map(({ name }) => name);
  }

  /** A token for one key, or for all that begin with a prefix, to hand to somebody else for an hour at most. */
  sign(
    what: {
      readonly bucket: string;
      readonly key?: string;
      readonly prefix?: string;
      readonly methods: readonly ObjectMethod[];
      /** Default: 600; at most 3,600. */
      readonly expiresInSeconds?: number;
    },
    { signal }: Signal = {},
  ): Promise<ObjectToken> {
    return this.#rest.json({
      method: "POST",
      path: "/v1/objects/sign",
      json: what,
      signal,
      idempotent: true,
    });
  }
}

/** The bytes of an answer and, where it is cut, of the ones that go on from there. Whole objects are verified. */
async function* resumed(
  first: StreamResponse,
  { sizeBytes, digest }: ObjectInfo,
  open: (range: string, ifMatch: string) => Promise<StreamResponse>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  const { start, end } = span(first, sizeBytes);
  const hash = start === 0 && end === sizeBytes - 1 ? createHash("sha256") : undefined;
  let response = first;
  let at = start;
  for (let cuts = 0; ; cuts++) {
    try {
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        at += chunk.length;
        cuts = 0;
        hash?.update(chunk);
        yield chunk;
      }
      if (at > end) break;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (cuts >= MAX_CUTS) throw error;
    }
    await sleep(backoffMs(cuts), signal);
    try {
      response = await open(`bytes=${at}-${end}`, `"${digest}"`);
    } catch (error) {
      if (!mayRetry(error) || cuts >= MAX_CUTS) throw error;
    }
  }
  if (hash) verify(hash.digest("hex"), digest);
}

function pathOf(bucket: string, key: string): string {
  return `/v1/objects/${encodeURIComponent(bucket)}/${encodeURIComponent(key)}`;
}

function putHeaders({ contentType, metadata, ifMatch, ifNoneMatch }: PutOptions): Record<string, string> {
  const match = tagOf(ifMatch);
  const noneMatch = tagOf(ifNoneMatch);
  const meta = Object.entries(metadata ?? {}).map(([name, value]) => [META + name, value]);
  return {
    "content-type": contentType ?? "application/octet-stream",
    ...Object.fromEntries(meta),
    ...(match !== undefined && { "if-match": match }),
    ...(noneMatch !== undefined && { "if-none-match": noneMatch }),
  };
}

function tagOf(digest: string | undefined): string | undefined {
  return digest === undefined || digest === "*" ? digest : `"${digest}"`;
}

function rangeHeader(range: ObjectRange | undefined): string | undefined {
  if (range === undefined) return undefined;
  return "last" in range ? `bytes=-${range.last}` : `bytes=${range.start}-${range.end ?? ""}`;
}

/** Which bytes an answer has. */
function span({ status, headers }: StreamResponse, sizeBytes: number): { start: number; end: number } {
  const match = status === 206 ? /^bytes (\d+)-(\d+)\//.exec(headers["content-range"] ?? "") : null;
  return match ? { start: Number(match[1]), end: Number(match[2]) } : { start: 0, end: sizeBytes - 1 };
}

function infoOf(bucket: string, key: string, { headers }: Pick<StreamResponse, "headers">): ObjectInfo {
  const total = /\/(\d+)$/.exec(headers["content-range"] ?? "")?.[1];
  const metadata = Object.entries(headers).filter(([name]) => name.startsWith(META));
  return {
    bucket,
    key,
    sizeBytes: Number(total ?? headers["content-length"]),
    digest: headers.etag?.replaceAll('"', "") ?? "",
    contentType: headers["content-type"] ?? "application/octet-stream",
    metadata: Object.fromEntries(metadata.map(([name, value]) => [name.slice(META.length), String(value)])),
    modifiedAt: new Date(headers["last-modified"] ?? Number.NaN).toISOString(),
  };
}

function verify(actual: string, digest: string): void {
  if (actual !== digest) throw new FarloomError("OBJECT_MISMATCH", { actual, digest });
}

async function collect(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** In pieces, so that a refusal is heard before all of it is in the socket's queue. */
function* slices(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 1024 * 1024) yield bytes.subarray(at, at + 1024 * 1024);
}
