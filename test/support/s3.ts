// A real S3 server on a free loopback port: moto's, from PyPI, with everything in its memory. `npm test` brings it;
// where it is not there, `s3Available` is false and the tests that need it skip themselves.
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import {
  CreateBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  S3Client,
} from "@aws-sdk/client-s3";
import type { S3Settings } from "../../apps/web-service/src/config.js";
import { freePort } from "./fabric.js";

const START_MS = 30_000;
const CACHE = join(import.meta.dirname, "../../node_modules/.cache/moto/bin");

// A program of that name may be there that does not run, e.g. a shim of pyenv.
const program = [join(CACHE, "moto_server"), "moto_server"].find(
  (path) => spawnSync(path, ["--help"], { stdio: "ignore" }).status === 0,
);

export const s3Available = program !== undefined;

export interface TestS3 {
  readonly settings: S3Settings;
  /** Keys of what is stored. */
  keys(): Promise<string[]>;
  /** Uploads in parts that have neither been finished nor aborted. */
  unfinished(): Promise<number>;
  /** Kills it: everything in it is lost. Idempotent. */
  stop(): Promise<void>;
}

/** Starts one, with an empty bucket. */
export async function startS3(): Promise<TestS3> {
  if (program === undefined) throw new Error("moto_server is not installed");
  const port = await freePort();
  const settings: S3Settings = {
    bucket: "blobs",
    endpoint: `http://127.0.0.1:${port}`,
    region: "us-east-1",
    prefix: "farloom/",
    accessKeyId: "test",
    secretAccessKey: "test-secret",
  };
  const child = spawn(program, ["-H", "127.0.0.1", "-p", String(port)], { stdio: "ignore" });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const client = new S3Client({
    endpoint: settings.endpoint!,
    region: settings.region,
    forcePathStyle: true,
    credentials: { accessKeyId: "test", secretAccessKey: "test-secret" },
  });
  const Bucket = settings.bucket;
  const giveUpAt = Date.now() + START_MS;
  for (;;) {
    try {
      await client.send(new CreateBucketCommand({ Bucket }));
      break;
    } catch (error) {
      if (Date.now() > giveUpAt || child.exitCode !== null) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return {
    settings,
    async keys() {
      const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }));
      return Contents.map(({ Key }) => Key!);
    },
    async unfinished() {
      return (await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads?.length ?? 0;
    },
    async stop() {
      client.destroy();
      child.kill("SIGKILL");
      await exited;
    },
  };
}
