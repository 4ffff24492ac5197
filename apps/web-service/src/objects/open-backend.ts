/** The backend that the configuration chooses: S3 where a bucket is named, a folder of the state otherwise. */
import { join } from "node:path";
import type { Logger } from "pino";
import type { Config } from "../config.js";
import type { BlobBackend } from "./backend.js";
import { FolderBackend } from "./folder.js";

/** An S3 that does not answer now is told of, not waited for: tasks run without objects. */
export async function openBackend(
  { s3, stateDir }: Pick<Config, "s3" | "stateDir">,
  log: Logger,
): Promise<BlobBackend> {
  if (s3 === undefined) return new FolderBackend(join(stateDir, "objects"));
  // The SDK of S3 takes a while to load, and most services do not need it.
  const { S3Backend } = await import("./s3.js");
  const backend = new S3Backend(s3);
  void backend.check().then(
    () => log.info({ bucket: s3.bucket, endpoint: s3.endpoint }, "objects lie in S3"),
    (err) =>
      log.error({ err, bucket: s3.bucket, endpoint: s3.endpoint }, "the bucket for objects cannot be used"),
  );
  return backend;
}
