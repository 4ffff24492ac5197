// The files of the embedded PostgreSQL: the cluster itself, its password and its settings.
//
// 1. A cluster appears at its place by a rename, so an initdb that was cut off leaves nothing to stumble over.
// 2. Services that start at once on one directory end up with one cluster and one password.
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { appendFile, link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { Logger } from "pino";
import { type PostgresBinaries, resolveBinaries } from "./postgres-binaries.js";
import { giveTo, type PostgresIdentity, placeCluster, resolveIdentity } from "./postgres-identity.js";
import { freePort } from "./postgres-process.js";
import { type PostgresSettings, renderSettings, TUNED_SETTINGS } from "./postgres-settings.js";

/** The superuser that initdb makes; it has the service's password, and creates the service's role and database. */
export const ADMIN = "postgres";
/** initdb takes about a second; what is older than this was left behind. */
const STALE_DRAFT_MS = 600_000;

const execute = promisify(execFile);

export interface ClusterOptions {
  readonly dataDir: string;
  readonly log: Logger;
  readonly settings?: PostgresSettings;
}

/** Kept in `<dataDir>.secret.json`, mode 0600. */
export interface Secret {
  password: string;
  port: number;
}

/** One cluster and all it takes to run it. */
export interface Cluster {
  readonly dir: string;
  readonly secretFile: string;
  readonly logFile: string;
  readonly secret: Secret;
  readonly binaries: PostgresBinaries;
  readonly identity: PostgresIdentity | undefined;
  readonly settings: PostgresSettings;
}

/** Finds or makes the cluster of `dataDir`, and whatever it takes to run it. */
export async function openCluster({ dataDir, log, settings }: ClusterOptions): Promise<Cluster> {
  const identity = await resolveIdentity(log);
  const dir = await placeCluster(dataDir, identity, log);
  const binaries = await resolveBinaries({ identity, home: dirname(dir), log });
  const secretFile = `${dataDir}.secret.json`;
  const secret = await readSecret(secretFile, dir);
  const cluster: Cluster = {
    dir,
    secretFile,
    logFile: `${dataDir}.log`,
    secret,
    binaries,
    identity,
    settings: { ...TUNED_SETTINGS, ...settings },
  };
  const version = await readVersion(dir);
  if (version === undefined) await createCluster(cluster);
  else await checkVersion(cluster, version);
  return cluster;
}

async function readVersion(dir: string): Promise<string | undefined> {
  return (await readFile(join(dir, "PG_VERSION"), "utf8").catch(() => undefined))?.trim();
}

async function checkVersion({ binaries, dir }: Cluster, version: string): Promise<void> {
  const { stdout } = await execute(binaries.postgres, ["--version"]);
  const major = /(\d+)/.exec(stdout)?.[1];
  if (major !== version)
    throw new Error(
      `${dir} was made by PostgreSQL ${version}, this build carries ${major}: dump it with the older build and restore, or set DATABASE_URL`,
    );
}

/** Reads or makes the secret. Two services that start at once end up with the same one. */
async function readSecret(file: string, dir: string): Promise<Secret> {
  const existing = await readFile(file, "utf8").catch(() => undefined);
  if (existing !== undefined) return JSON.parse(existing) as Secret;
  if ((await readVersion(dir)) !== undefined)
    throw new Error(`${file} holds the password of ${dir} and is missing: put it back`);
  const secret: Secret = { password: randomBytes(24).toString("base64url"), port: await freePort() };
  // A link appears whole or not at all, and never over another.
  const draft = `${file}.${randomBytes(4).toString("hex")}`;
  await writeFile(draft, JSON.stringify(secret), { mode: 0o600 });
  try {
    await link(draft, file);
    return secret;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return JSON.parse(await readFile(file, "utf8")) as Secret;
  } finally {
    await rm(draft, { force: true });
  }
}

async function createCluster(cluster: Cluster): Promise<void> {
  const { dir, identity, secret, binaries } = cluster;
  await removeStaleDrafts(dir);
  const draft = `${dir}.draft-${randomBytes(4).toString("hex")}`;
  const passwordFile = `${draft}.password`;
  try {
    await mkdir(draft, { mode: 0o700 });
    await giveTo(draft, identity);
    await writeFile(passwordFile, secret.password, { mode: 0o600 });
    await giveTo(passwordFile, identity);
    // The builtin locale sorts text by code point: fast, and the same on every platform and after every upgrade.
    const locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
    const access = [`--username=${ADMIN}`, `--pwfile=${passwordFile}`, "--auth=scram-sha-256"];
    await execute(binaries.initdb, [`--pgdata=${draft}`, ...access, ...locale, "--no-instructions"], {
      cwd: draft,
      env: { PATH: process.env.PATH ?? "", LC_ALL: "C" },
      ...(identity && { uid: identity.uid, gid: identity.gid }),
    });
    await appendFile(join(draft, "postgresql.conf"), "\ninclude_if_exists = 'farloom.conf'\n");
    await rename(draft, dir);
  } catch (error) {
    // Another service that starts on the same directory may have been first; its cluster is as good.
    if ((await readVersion(dir)) === undefined)
      throw new Error(`the PostgreSQL cluster in ${dir} could not be created: ${String(error)}`, {
        cause: error,
      });
  } finally {
    await rm(passwordFile, { force: true });
    await rm(draft, { recursive: true, force: true });
  }
}

/** What a start that was cut off has left: 40 MB each. */
async function removeStaleDrafts(dir: string): Promise<void> {
  for (const name of await readdir(dirname(dir))) {
    if (!name.startsWith(`${basename(dir)}.draft-`)) continue;
    const path = join(dirname(dir), name);
    const madeAtMs = (await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now();
    if (Date.now() - madeAtMs > STALE_DRAFT_MS) await rm(path, { recursive: true, force: true });
  }
}

/** Remembers the port, so that people's connections survive a restart. */
export async function keepPort({ secret, secretFile }: Cluster, port: number): Promise<void> {
  if (secret.port === port) return;
  secret.port = port;
  await writeFile(`${secretFile}.draft`, JSON.stringify(secret), { mode: 0o600 });
  await rename(`${secretFile}.draft`, secretFile);
}

/** Writes farloom.conf anew, as another build may tune otherwise. */
export async function writeSettings({ dir, settings, identity }: Cluster): Promise<void> {
  const file = join(dir, "farloom.conf");
  await writeFile(file, renderSettings(settings), { mode: 0o600 });
  await giveTo(file, identity);
}
