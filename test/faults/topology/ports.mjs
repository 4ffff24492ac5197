/** Free ports, and who runs on behalf of a run. */
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";

export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = /** @type {import("node:net").AddressInfo} */ (probe.address());
      probe.close(() => resolve(port));
    });
  });
}

/**
 * Processes with the text in their environment or command line, zombies and this one aside.
 * @returns {{pid: number, command: string}[]}
 */
export function processesWith(text) {
  const found = [];
  const own = ancestors();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || own.has(Number(name))) continue;
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8");
      if (command === "") continue;
      if (command.includes(text) || readFileSync(`/proc/${name}/environ`, "utf8").includes(text))
        found.push({ pid: Number(name), command: command.replaceAll("\0", " ").trim() });
    } catch {
      // It has ended meanwhile.
    }
  }
  return found;
}

/** This process and those that it was started by: their command lines may name the folder too. */
function ancestors() {
  const pids = new Set();
  for (let pid = process.pid; pid > 1 && !pids.has(pid); ) {
    pids.add(pid);
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    pid = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  }
  return pids;
}
