/**
 * CPU time and memory of processes, from /proc.
 *
 * A part's CPU time is that of its live processes and of all children that they have waited for, so what lived
 * and died in between is counted. /proc/PID/stat counts ticks of 10 ms; where a part is almost idle, `preciseCpuUs`
 * reads the scheduler's nanoseconds instead.
 */
import { readdirSync, readFileSync } from "node:fs";

/** Microseconds of one tick of /proc/PID/stat: USER_HZ is 100 on every Linux that Node runs on. */
const TICK_US = 10_000;

/** The fields of a live process that we use, or undefined where it is gone. */
function readStat(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number);
    return { pid, parent: Number(fields[1]), ownTicks: utime + stime, childTicks: cutime + cstime };
  } catch {
    return undefined;
  }
}

function allProcesses() {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name) => readStat(Number(name)))
    .filter((stat) => stat !== undefined);
}

/**
 * Every live process from `root` down, itself included, without `except` and what is below it.
 * @param {{except?: number}} [options]
 */
export function processTree(root, options = {}) {
  const { except } = options;
  const all = allProcesses();
  const found = all.filter(({ pid }) => pid === root);
  for (let i = 0; i < found.length; i++) {
    found.push(...all.filter(({ parent, pid }) => parent === found[i].pid && pid !== except));
  }
  return found;
}

const total = (stats, pick) => stats.reduce((sum, stat) => sum + pick(stat), 0);

/**
 * Who is who: the service without PostgreSQL, PostgreSQL, agents without workers, workers. CPU time since they
 * started, in microseconds; the client is this process.
 */
export function cpuByPart({ servicePid, postgresPid, agentPids }) {
  const service = processTree(servicePid, { except: postgresPid });
  const database = processTree(postgresPid);
  const trees = agentPids.map((pid) => processTree(pid));
  const own = process.cpuUsage();
  const everything = (stat) => stat.ownTicks + stat.childTicks;
  return {
    client: own.user + own.system,
    service: TICK_US * total(service, everything),
    database: TICK_US * total(database, everything),
    agent: TICK_US * trees.reduce((sum, [agent]) => sum + (agent?.ownTicks ?? 0), 0),
    workers:
      TICK_US *
      trees.reduce((sum, [agent, ...below]) => sum + (agent?.childTicks ?? 0) + total(below, everything), 0),
  };
}

export const PARTS = ["client", "service", "database", "agent", "workers"];

/** Microseconds of each part for each of `tasks`, between two readings. */
export function cpuPerTask(before, after, tasks) {
  return Object.fromEntries(PARTS.map((part) => [part, (after[part] - before[part]) / tasks]));
}

/** CPU microseconds of each live process by its id, to the nanosecond where the kernel tells it. */
export function preciseCpuUs(stats) {
  return new Map(stats.map(({ pid }) => [pid, preciseUsOf(pid)]));
}

function preciseUsOf(pid) {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    const nsOf = (tid) => Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, "latin1").split(" ")[0]);
    return threads.reduce((sum, tid) => sum + nsOf(tid), 0) / 1000;
  } catch {
    // It has ended, or this kernel keeps no such statistics.
    return (readStat(pid)?.ownTicks ?? 0) * TICK_US;
  }
}

/** Resident memory of one process in MiB. */
export function rssMb(pid) {
  const text = readFileSync(`/proc/${pid}/status`, "latin1");
  return Number(/^VmRSS:\s+(\d+)/m.exec(text)?.[1] ?? 0) / 1024;
}

/** Memory of many processes in MiB, each shared page counted once (PSS), or resident where that is not told. */
export function sharedMb(stats) {
  return total(stats, ({ pid }) => {
    try {
      const text = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
      return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? 0) / 1024;
    } catch {
      return rssMb(pid);
    }
  });
}
