/**
 * Faults of the network made by the kernel (nft): packets to and from a link's port are dropped, all or some, and
 * the connections live through it if they can. What a proxy cannot show: TCP's own retries and their long pauses.
 */
import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { isContained } from "../topology/machine.mjs";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const TABLE = `farloom_faults_${process.pid}`;

function nft(text) {
  execFileSync("nft", ["-f", "-"], { input: text, stdio: ["pipe", "ignore", "ignore"] });
}

/** Whether this machine lets us. */
export function kernelFaultsAllowed() {
  if (!isContained()) return false;
  try {
    nft(
      `table inet ${TABLE} { chain out { type filter hook output priority 0; tcp dport 9 numgen random mod 100 < 1 drop; }; }`,
    );
    endKernelFaults();
    return true;
  } catch {
    return false;
  }
}

/** Whatever was set is gone. */
export function endKernelFaults() {
  try {
    execFileSync("nft", ["delete", "table", "inet", TABLE], { stdio: "ignore" });
  } catch {
    // There was none.
  }
}

const ROLES = [
  { role: "client", count: "clients" },
  { role: "agent", count: "agents" },
  { role: "postgres", count: "services" },
];

let chains = 0;

/** @type {Kind[]} */
export const KERNEL_KINDS = ROLES.flatMap(({ role, count }) =>
  [
    { how: "drop", percent: 100 },
    { how: "lossy", percent: 25 },
  ].map(({ how, percent }) => ({
    name: `kernel.${role}.${how}`,
    needs: (shape) => (shape.kernel ? undefined : "no nft, or no right to use it"),
    plan(random, shape) {
      const link = `${role}-${random.int(0, shape[count] - 1)}`;
      return { touches: [`link ${link}`], link, ms: random.pick([1_000, 4_000, 13_000]) };
    },
    async run(fabric, { link: name, ms }) {
      const { port } = fabric.link(name);
      const chain = `link${chains++}`;
      const some = percent === 100 ? "" : `numgen random mod 100 < ${percent}`;
      nft(
        `table inet ${TABLE} { chain ${chain} { type filter hook output priority 0; tcp dport ${port} ${some} drop; tcp sport ${port} ${some} drop; }; }`,
      );
      await sleep(ms);
      nft(`flush chain inet ${TABLE} ${chain}; delete chain inet ${TABLE} ${chain};`);
    },
  })),
);
