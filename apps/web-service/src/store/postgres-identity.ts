// Under which user the embedded PostgreSQL runs, and in which directory it can. PostgreSQL refuses to run as
// root, so a service started by root (a container, usually) hands it to a system user; that user must then be
// able to pass through every parent of the data directory. For an ordinary user there is nothing to do.
import { execFile } from "node:child_process";
import { chmod, chown, mkdir, mkdtemp, readFile, readlink, realpath, stat, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, sep } from "node:path";
import { promisify } from "node:util";
import type { Logger } from "pino";

/** The system user PostgreSQL runs as. */
export interface PostgresIdentity {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** Where clusters go when the parents of the wished place are closed to the system user, as /root is. */
const SHARED_HOME = "/var/lib/farloom";
const OWN_USER = "farloom";

/**
 * The user to run as, or undefined when the process is no root and runs PostgreSQL as itself.
 * Creates the system user `farloom` where neither it nor `postgres` exists.
 */
export async function resolveIdentity(log: Logger): Promise<PostgresIdentity | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const existing = (await findUser(OWN_USER)) ?? (await findUser("postgres"));
  if (existing) return existing;
  await createUser();
  const created = await findUser(OWN_USER);
  if (!created)
    throw new Error(
      `PostgreSQL cannot run as root, and the system user ${OWN_USER} could not be created: create it`,
    );
  log.info({ user: OWN_USER }, "created a system user for PostgreSQL, which cannot run as root");
  return created;
}

async function findUser(name: string): Promise<PostgresIdentity | undefined> {
  const passwd = await readFile("/etc/passwd", "utf8");
  const fields = passwd
    .split("\n")
    .find((line) => line.startsWith(`${name}:`))
    ?.split(":");
  return fields && { name, uid: Number(fields[2]), gid: Number(fields[3]) };
}

async function createUser(): Promise<void> {
  const run = promisify(execFile);
  // useradd is everywhere but on Alpine, which has BusyBox's adduser.
  await run("useradd", [
    "--system",
    "--user-group",
    "--no-create-home",
    "--shell",
    "/bin/false",
    OWN_USER,
  ]).catch(() => run("adduser", ["-S", "-D", "-H", OWN_USER]).catch(() => {}));
}

/** Whether the user may pass through `dir` itself; its parents are asked on their own. */
async function canEnter(dir: string, identity: PostgresIdentity): Promise<boolean> {
  const { uid, gid, mode } = await stat(dir);
  const needed = uid === identity.uid ? 0o100 : gid === identity.gid ? 0o010 : 0o001;
  return (mode & needed) !== 0;
}

/** The directories on the way to `path`, it included, that are closed to the user. */
export async function closedDirectories(path: string, identity: PostgresIdentity): Promise<string[]> {
  const closed: string[] = [];
  for (let dir = path; ; dir = dirname(dir)) {
    if (!(await canEnter(dir, identity))) closed.push(dir);
    if (dir === dirname(dir)) return closed;
  }
}

/**
 * Makes the directory above the data directory, and says where the cluster shall really be.
 *
 * Only what is Farloom's own (that directory) or below the temporary directory is opened to the system user, and
 * only for passing through. Somebody's closed home stays closed: the cluster is then put under /var/lib/farloom,
 * and `dataDir` becomes a link to it.
 */
export async function placeCluster(
  dataDir: string,
  identity: PostgresIdentity | undefined,
  log: Logger,
): Promise<string> {
  await mkdir(dirname(dataDir), { recursive: true, mode: identity ? 0o711 : 0o700 });
  const home = await realpath(dirname(dataDir));
  const wished = join(home, basename(dataDir));
  // An earlier start has put it elsewhere; the link dangles if that start was cut off before initdb was done.
  const elsewhere = await readlink(wished).catch(() => undefined);
  if (elsewhere !== undefined) {
    await openForPassing(dirname(elsewhere));
    return join(await realpath(dirname(elsewhere)), basename(elsewhere));
  }
  if (!identity) return wished;
  const temporary = `${await realpath(tmpdir())}${sep}`;
  const closed = await closedDirectories(home, identity);
  if (closed.every((dir) => dir === home || dir.startsWith(temporary))) {
    for (const dir of closed) await chmod(dir, (await stat(dir)).mode | 0o011);
    return wished;
  }
  await openForPassing(SHARED_HOME);
  const above = await mkdtemp(join(SHARED_HOME, "cluster-"));
  await chmod(above, 0o711);
  const clusterDir = join(above, basename(dataDir));
  await symlink(clusterDir, wished);
  log.info(
    { dataDir, clusterDir, closed: closed.at(-1), user: identity.name },
    "the data directory is closed to PostgreSQL's user, the cluster is kept elsewhere",
  );
  return clusterDir;
}

/** Makes a directory that PostgreSQL's user may pass through, whatever the umask. */
async function openForPassing(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await chmod(dir, 0o711);
}

/** Gives a file or directory to the user, if there is one. */
export async function giveTo(path: string, identity: PostgresIdentity | undefined): Promise<void> {
  if (identity) await chown(path, identity.uid, identity.gid);
}
