/** `farloom objects`: named bytes at the service. A name is `bucket/key`; `-` is standard input or output. */
import { basename } from "node:path";
import { pipeline } from "node:stream/promises";
import type { ObjectInfo, ObjectRange } from "@farloom/sdk";
import { type Command, InvalidArgumentError } from "commander";
import { type Context, take, withClient } from "../context.js";
import { CliError, USAGE } from "../exit-codes.js";
import { ago, collect, durationMs, wholeNumber } from "../values.js";

/** Keys in one deletion. */
const DELETE_AT_ONCE = 1_000;

export function addObjects(program: Command, { output }: Context): void {
  const objects = program
    .command("objects")
    .alias("object")
    .description("named bytes that the service keeps");

  objects
    .command("put <file> <name>")
    .description(
      "store a file, or standard input (-), as bucket/key; a name that ends with / takes the file's",
    )
    .option("--type <type>", "its media type")
    .option("--meta <NAME=VALUE>", "kept beside it; may be repeated", collect(String))
    .option("--if-absent", "fail where there is one already")
    .option("--if-match <digest>", "replace only the one of this digest")
    .action((file: string, name: string, options: PutFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const [bucket, key] = split(name.endsWith("/") && file !== "-" ? name + basename(file) : name);
        const put = {
          signal,
          contentType: options.type,
          metadata: Object.fromEntries((options.meta ?? []).map(pair)),
          ifNoneMatch: options.ifAbsent ? "*" : undefined,
          ifMatch: options.ifMatch,
        };
        const info = await (file === "-"
          ? farloom.objects.put(bucket, key, process.stdin, put)
          : farloom.objects.putFile(bucket, key, file, put));
        output.result(
          info,
          () => `Stored ${output.style("bold", `${bucket}/${key}`)}, ${info.sizeBytes} bytes.`,
        );
      }),
    );

  objects
    .command("get <name> [file]")
    .description("fetch bucket/key into a file (default: named as the key ends), or to standard output (-)")
    .option("--range <range>", "only these bytes: 0-99, 100-, or -100 for the last hundred", range)
    .action((name: string, file: string | undefined, options: { range?: ObjectRange }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const [bucket, key] = split(name);
        const path = file ?? basename(key);
        if (path === "-") {
          const object = await farloom.objects.get(bucket, key, { ...options, signal });
          await pipeline(object.body, process.stdout, { end: false, signal });
          return;
        }
        const info = await farloom.objects.getFile(bucket, key, path, { ...options, signal });
        output.result({ ...info, file: path }, () => `Fetched ${bucket}/${key} into ${path}.`);
      }),
    );

  objects
    .command("ls [name]")
    .description("your buckets, or what is in bucket or bucket/prefix; folders end with /")
    .option("-r, --recursive", "all keys, not folder by folder")
    .option("--limit <n>", "at most so many", wholeNumber, 1_000)
    .action((name: string | undefined, options: { recursive?: boolean; limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        if (name === undefined) {
          const buckets = await farloom.objects.buckets({ signal });
          output.list(buckets, ["BUCKET"], (bucket) => [bucket], "No objects.");
          return;
        }
        const [bucket, prefix] = [name.split("/", 1)[0]!, name.slice(name.split("/", 1)[0]!.length + 1)];
        const delimiter = options.recursive ? undefined : "/";
        const entries = await take(
          listed(farloom.objects, bucket, { prefix, delimiter, signal }),
          options.limit,
        );
        output.list(
          entries,
          ["KEY", "BYTES", "CHANGED"],
          (entry) =>
            "digest" in entry ? [entry.key, entry.sizeBytes, ago(entry.modifiedAt)] : [entry.prefix, "", ""],
          "Nothing there.",
        );
      }),
    );

  objects
    .command("stat <name>")
    .description("size, SHA-256, type and metadata of bucket/key")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const info = await farloom.objects.head(...split(name), { signal });
        output.result(info, () =>
          output.fields([
            ["name", `${info.bucket}/${info.key}`],
            ["bytes", info.sizeBytes],
            ["sha256", info.digest],
            ["type", info.contentType],
            ["changed", info.modifiedAt],
            ...Object.entries(info.metadata).map(([meta, value]) => [`meta ${meta}`, value] as const),
          ]),
        );
      }),
    );

  objects
    .command("rm <names...>")
    .description("delete objects; what is not there is no error")
    .option("-r, --recursive", "all that begin with the names")
    .action((names: string[], options: { recursive?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        let deleted = 0;
        for (const name of names) {
          const [bucket, key] = split(name, options.recursive);
          for (;;) {
            const page = options.recursive
              ? await farloom.objects.list(bucket, { prefix: key, limit: DELETE_AT_ONCE, signal })
              : { items: [{ key }], nextCursor: undefined };
            const keys = page.items.map((item) => item.key);
            if (keys.length > 0)
              deleted += (await farloom.objects.deleteMany(bucket, keys, { signal })).deleted;
            if (!page.nextCursor) break;
          }
        }
        output.result({ deleted }, () => `Deleted ${deleted}.`);
      }),
    );

  objects
    .command("sign <name>")
    .description(
      "a token for bucket/key, or for all that begin with bucket/prefix/, to hand to somebody else",
    )
    .option(
      "--method <method>",
      "get, head, list, put or delete; may be repeated (default: get, head)",
      collect(String),
    )
    .option("--for <duration>", "how long it holds, at most 1h", durationMs, 600_000)
    .action((name: string, options: { method?: string[]; for: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const isPrefix = name.endsWith("/");
        const [bucket, key] = split(name, isPrefix);
        const token = await farloom.objects.sign(
          {
            bucket,
            ...(isPrefix ? { prefix: key } : { key }),
            methods: (options.method ?? ["get", "head"]) as "get"[],
            expiresInSeconds: Math.max(1, Math.round(options.for / 1000)),
          },
          { signal },
        );
        output.result(token, () => token.token);
        if (!output.json)
          output.note(
            `For ${farloom.options.url}${token.path}, as 'Authorization: Bearer TOKEN', for ${token.expiresInMs / 1000} s.`,
          );
      }),
    );
}

interface PutFlags {
  readonly type?: string;
  readonly meta?: string[];
  readonly ifAbsent?: boolean;
  readonly ifMatch?: string;
}

type Listed = ObjectInfo | { readonly prefix: string };

/** Objects and folders, page by page. */
async function* listed(
  objects: { list: import("@farloom/sdk").ObjectsApi["list"] },
  bucket: string,
  options: { prefix: string; delimiter: string | undefined; signal: AbortSignal },
): AsyncGenerator<Listed> {
  let cursor: string | undefined;
  do {
    const page = await objects.list(bucket, { ...options, cursor });
    yield* page.prefixes.map((prefix) => ({ prefix }));
    yield* page.items;
    cursor = page.nextCursor ?? undefined;
  } while (cursor !== undefined);
}

/** `bucket/key`. */
function split(name: string, mayBeBucket = false): [string, string] {
  const at = name.indexOf("/");
  if (at < 0 && mayBeBucket) return [name, ""];
  if (at <= 0 || (at === name.length - 1 && !mayBeBucket))
    throw new CliError(`"${name}" is no name of an object`, USAGE, "write it as bucket/key");
  return [name.slice(0, at), name.slice(at + 1)];
}

function pair(text: string): [string, string] {
  const at = text.indexOf("=");
  if (at <= 0) throw new CliError(`"${text}" is not NAME=VALUE`, USAGE);
  return [text.slice(0, at).toLowerCase(), text.slice(at + 1)];
}

function range(text: string): ObjectRange {
  const match = /^(\d*)-(\d*)$/.exec(text);
  if (!match || text === "-") throw new InvalidArgumentError("A range is like 0-99, 100- or -100.");
  if (match[1] === "") return { last: Number(match[2]) };
  return { start: Number(match[1]), end: match[2] === "" ? undefined : Number(match[2]) };
}
