/**
 * The command line of a worker in namespaces (bubblewrap). What it sees:
 *
 *     /usr /bin /lib … /opt          the machine's programs, read-only
 *     /etc                           what programs need to run, and nothing of this machine's secrets
 *     its interpreter, ours          read-only, where they lie
 *     /tmp /var/tmp                  its own folder, emptied after each task
 *     /farloom/worker …/door         its own folder as the agent sees it; the socket to its node manager
 *     /proc /dev                     its own; GPUs where the machine has them
 *
 * No other process, no network unless asked for, nothing of the agent's state folder, no home.
 */
import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

/** Where a worker finds its things, whatever the agent's paths are. */
export const INSIDE = {
  worker: "/farloom/worker",
  args: "/farloom/args",
  payloads: "/farloom/payloads",
  door: "/farloom/door",
  program: "/farloom/program",
} as const;

const SYSTEM = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
const READ_ONLY = ["/usr", "/opt", "/nix/store", "/gnu/store", "/sys/devices/system"];
/** Of /etc: names, time, libraries, certificates, languages. Nothing here holds a secret on any distribution we know. */
const ETC =
  `passwd group nsswitch.conf hosts host.conf services protocols ld.so.cache ld.so.conf ld.so.conf.d localtime
  timezone alternatives ssl/certs ssl/openssl.cnf pki ca-certificates ca-certificates.conf mime.types fonts python3
  java-17-openjdk OpenCL vulkan locale.conf locale.alias inputrc magic os-release debian_version gai.conf`
    .split(/\s+/)
    .filter(Boolean);
const GPU = /^(nvidia.*|dri|kfd|infiniband)$/;

export interface View {
  readonly network: boolean;
  /** Whether the sandbox is a user namespace; only root can do without. */
  readonly userNamespace: boolean;
  /** Whether this bubblewrap can forbid further user namespaces. */
  readonly disableUserNamespaces: boolean;
  readonly readOnly: readonly string[];
  readonly bind: readonly string[];
  /** The agent's side of INSIDE. */
  readonly own: {
    readonly worker: string;
    readonly args: string;
    readonly payloads: string;
    readonly door: string;
  };
  /** What the worker becomes after everything is mounted: uid and gid. */
  readonly becomes?: { readonly uid: number; readonly gid: number };
}

/** Everything before the program. */
export function bubblewrapArgs(view: View): string[] {
  const { own } = view;
  const args = [
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--hostname",
    "farloom",
  ];
  if (view.userNamespace) args.push("--unshare-user");
  if (view.userNamespace && view.disableUserNamespaces) args.push("--disable-userns");
  if (!view.network) args.push("--unshare-net");
  args.push("--proc", "/proc", "--dev", "/dev");
  args.push("--bind", `${own.worker}/scratch`, "/tmp", "--dir", "/var", "--symlink", "/tmp", "/var/tmp");
  args.push(...systemMounts(view.network));
  for (const path of parentsOf([...view.readOnly, ...view.bind, INSIDE.worker]))
    args.push("--perms", "0755", "--dir", path);
  for (const path of view.readOnly) args.push("--ro-bind-try", path, path);
  for (const path of view.bind) args.push("--bind-try", path, path);
  args.push("--bind", own.worker, INSIDE.worker, "--ro-bind", own.args, INSIDE.args);
  args.push("--bind", own.payloads, INSIDE.payloads, "--ro-bind", own.door, INSIDE.door);
  args.push("--chdir", `${INSIDE.worker}/scratch`);
  if (view.becomes) {
    const { uid, gid } = view.becomes;
    args.push("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--", "setpriv", `--reuid=${uid}`);
    args.push(`--regid=${gid}`, "--clear-groups", "--no-new-privs", "--inh-caps=-all");
  }
  args.push("--");
  return args;
}

function systemMounts(network: boolean): string[] {
  const args: string[] = [];
  for (const path of SYSTEM) {
    if (!existsSync(path)) continue;
    if (lstatSync(path).isSymbolicLink()) args.push("--symlink", readlinkSync(path), path);
    else args.push("--ro-bind", path, path);
  }
  for (const path of READ_ONLY) args.push("--ro-bind-try", path, path);
  const ofEtc = ETC.map((name) => `/etc/${name}`);
  for (const path of parentsOf(ofEtc)) args.push("--perms", "0755", "--dir", path);
  for (const path of ofEtc) args.push("--ro-bind-try", path, path);
  // Often a link into /run, which is not there.
  if (network && existsSync("/etc/resolv.conf"))
    args.push("--ro-bind", realpathSync("/etc/resolv.conf"), "/etc/resolv.conf");
  const gpus = readdirSync("/dev").filter((name) => GPU.test(name));
  for (const name of gpus) args.push("--dev-bind-try", `/dev/${name}`, `/dev/${name}`);
  if (gpus.length > 0) args.push("--ro-bind", "/sys", "/sys");
  return args;
}

/** The folders on the way to mounts, the higher first: bubblewrap would make them for its own user alone. */
function parentsOf(paths: readonly string[]): string[] {
  const parents = new Set<string>();
  for (const path of paths) {
    for (let dir = dirname(path); dir !== "/"; dir = dirname(dir)) {
      if (!isSystemPath(dir) && dir !== "/tmp") parents.add(dir);
    }
  }
  return [...parents].sort();
}

/** Whether the system's own mounts show a path already. */
export function isSystemPath(path: string): boolean {
  return [...SYSTEM, ...READ_ONLY].some((one) => path === one || path.startsWith(`${one}/`));
}

/** The folder that a program's installation lies in: two above it, as bin/ and lib/ stand side by side. */
export function installationOf(program: string): string {
  return dirname(dirname(realpathSync(program)));
}

/**
 * What of an installation a worker is shown. Where the user's home lies in it (a Node in ~/bin, a Python with the prefix
 * ~), its programs and libraries alone: the rest is what a sandbox is to hide, the agent's key among it.
 */
export function shownOf(installation: string, home: string): string[] {
  const holdsHome = home === installation || home.startsWith(`${installation}/`);
  return holdsHome ? ["bin", "lib", "lib64"].map((name) => join(installation, name)) : [installation];
}
