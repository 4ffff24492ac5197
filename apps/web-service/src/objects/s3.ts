/**
 * Blobs in a bucket of any S3: `<prefix><aa>/<id>`. Small ones go in one request, large ones in parts.
 *
 *   1. A blob that S3 has acknowledged is durable; a failed upload is aborted, and one that was killed leaves parts that
 *      `sweepUnfinished` aborts.
 *
 * An upload holds at most three parts of 8 MiB: two on their way and one that is being filled.
 */
import { Readable } from "node:stream";
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  S3Client,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { FarloomError } from "@farloom/protocol";
import type { S3Settings } from "../config.js";
import type { ByteRange } from "../http/range.js";
import type { BlobBackend, BlobEntry } from "./backend.js";

/** 5 GiB are 640 parts, of the 10,000 that S3 takes. */
const PART_BYTES = 8 * 1024 * 1024;
const PARTS_AT_ONCE = 2;
const REQUEST_TIMEOUT_MS = 60_000;
const CONNECT_TIMEOUT_MS = 5_000;
const ID = /^[0-9a-f]{2}\/([0-9a-f]{2}[0-9a-f-]{34})$/;

export class S3Backend implements BlobBackend {
  /** 32 uploads of 24 MiB. */
  readonly maxUploads = 32;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #stop = new AbortController();

  constructor({ bucket, prefix, endpoint, region, accessKeyId, secretAccessKey }: S3Settings) {
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#client = new S3Client({
      region,
      ...(endpoint !== undefined && { endpoint, forcePathStyle: true }),
      // Without keys the SDK looks where AWS keeps them (environment, shared files, the machine's role).
      ...(accessKeyId !== undefined &&
        secretAccessKey !== undefined && { credentials: { accessKeyId, secretAccessKey } }),
      // Checksums in trailers are AWS's own; other servers refuse them. The row has the SHA-256.
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
      requestHandler: {
        connectionTimeout: CONNECT_TIMEOUT_MS,
        requestTimeout: REQUEST_TIMEOUT_MS,
        httpAgent: { maxSockets: 128 },
        httpsAgent: { maxSockets: 128 },
      },
    });
  }

  /** Whether the bucket is there and may be used. @throws FarloomError STORAGE_UNAVAILABLE */
  async check(): Promise<void> {
    await this.#told(this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket })));
  }

  async write(id: string, chunks: AsyncIterable<Buffer>): Promise<void> {
    // The chunks' own failure is theirs, whatever the SDK makes of it.
    let failure: unknown;
    const watched = async function* () {
      try {
        yield* chunks;
      } catch (error) {
        failure = error;
        throw error;
      }
    };
    const upload = new Upload({
      client: this.#client,
      params: {
        Bucket: this.#bucket,
        Key: this.#key(id),
        Body: Readable.from(watched(), { objectMode: false }),
      },
      partSize: PART_BYTES,
      queueSize: PARTS_AT_ONCE,
    });
    const abort = () => void upload.abort();
    this.#stop.signal.addEventListener("abort", abort, { once: true });
    try {
      await this.#told(upload.done());
    } catch (error) {
      throw failure ?? error;
    } finally {
      this.#stop.signal.removeEventListener("abort", abort);
    }
  }

  async read(id: string, range: ByteRange | undefined): Promise<Readable | undefined> {
    const Range = range && `bytes=${range.start}-${range.end}`;
    try {
      const { Body } = await this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key: this.#key(id), Range }),
      );
      return Body as Readable;
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw told(error);
    }
  }

  async remove(id: string): Promise<void> {
    await this.#told(
      this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: this.#key(id) })),
    );
  }

  async *list(): AsyncGenerator<readonly BlobEntry[]> {
    let token: string | undefined;
    do {
      const page = await this.#told(
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: this.#prefix,
            ContinuationToken: token,
          }),
        ),
      );
      const entries: BlobEntry[] = [];
      for (const { Key, LastModified } of page.Contents ?? []) {
        const id = ID.exec(Key?.slice(this.#prefix.length) ?? "")?.[1];
        if (id !== undefined) entries.push({ id, storedAtMs: async () => LastModified?.getTime() });
      }
      if (entries.length > 0) yield entries;
      token = page.NextContinuationToken;
    } while (token !== undefined);
  }

  async sweepUnfinished(beforeMs: number): Promise<number> {
    let removed = 0;
    // What is aborted leaves the list, so one page at each sweep gets through all.
    const { Uploads = [] } = await this.#told(
      this.#client.send(new ListMultipartUploadsCommand({ Bucket: this.#bucket, Prefix: this.#prefix })),
    );
    for (const { Key, UploadId, Initiated } of Uploads) {
      if (Initiated === undefined || Initiated.getTime() >= beforeMs) continue;
      await this.#told(
        this.#client.send(new AbortMultipartUploadCommand({ Bucket: this.#bucket, Key, UploadId })),
      );
      removed++;
    }
    return removed;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#client.destroy();
  }

  #key(id: string): string {
    return `${this.#prefix}${id.slice(0, 2)}/${id}`;
  }

  async #told<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw told(error);
    }
  }
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}

/** Only the kind of the failure: texts of S3 name our buckets and keys. */
function told(error: unknown): FarloomError {
  if (error instanceof FarloomError) return error;
  const { name, code } = error as { name?: string; code?: string };
  if (statusOf(error) === 507) return new FarloomError("STORAGE_FULL", {}, { cause: error });
  return new FarloomError("STORAGE_UNAVAILABLE", { detail: code ?? name ?? "unknown" }, { cause: error });
}
