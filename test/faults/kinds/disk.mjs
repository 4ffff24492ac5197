/**
 * Faults of disks: full ones, and journals that a disk did not keep. A full disk is a small tmpfs under the state
 * folder of the last agent, or under PostgreSQL, filled to its last byte; that needs the right to mount.
 *
 * A damaged journal breaks a condition of the guarantees (disks honour fsync), so the checker holds the tasks that
 * were there to less; the record `damage` says which they may be.
 */
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { nowNs } from "../record.mjs";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const CHUNK = Buffer.alloc(1 << 20, 0x55);
/** Far more than any tmpfs of ours; where it fits, this is no small disk. */
const MOST_CHUNKS = 4_096;

/** Writes until nothing fits, down to the last byte. */
function fill(file) {
  const fd = openSync(file, "a");
  try {
    for (let sizeBytes = CHUNK.length, n = 0; sizeBytes >= 1 && n < MOST_CHUNKS; n++) {
      try {
        writeSync(fd, CHUNK, 0, sizeBytes);
      } catch (error) {
        if (error.code !== "ENOSPC") throw error;
        sizeBytes >>= 1;
      }
    }
  } finally {
    closeSync(fd);
  }
}

async function filled(dir, ms) {
  const file = join(dir, "filled-by-the-campaign");
  fill(file);
  await sleep(ms);
  rmSync(file, { force: true });
}

/** The newest segment of an agent's journal that is longer than its header. */
function newestSegment(stateDir) {
  const dir = join(stateDir, "journal");
  return readdirSync(dir)
    .map((name) => join(dir, name))
    .filter((file) => statSync(file).isFile() && statSync(file).size > 64)
    .toSorted((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

async function damaged(fabric, { i, downMs }, damage) {
  const agent = fabric.agents[i];
  const from = nowNs();
  await agent.kill();
  const file = newestSegment(agent.stateDir);
  if (file !== undefined) damage(file);
  await sleep(downMs);
  await agent.start();
  fabric.run.write("damage", { agent: agent.name, endpoint: agent.endpointId, from, to: nowNs() });
}

const planned = (random, shape) => {
  const i = random.int(0, shape.agents - 1);
  return { touches: [`agent-${i}`], i, downMs: random.int(0, 1_000), share: random.next() };
};

/** @type {Kind[]} */
export const DISK_KINDS = [
  {
    name: "disk.agent-full",
    needs: (shape) => (shape.agentDisk ? undefined : "no right to mount a tmpfs"),
    plan: (random, shape) => ({ touches: [`agent-${shape.agents - 1}`], ms: random.int(1_000, 6_000) }),
    run: (fabric, { ms }) => filled(fabric.agents.at(-1).stateDir, ms),
  },
  {
    name: "disk.postgres-full",
    needs: (shape) => (shape.postgresDisk ? undefined : "no right to mount a tmpfs"),
    plan: (random) => ({ touches: ["postgres"], ms: random.int(1_000, 5_000) }),
    async run(fabric, { ms }) {
      await filled(join(fabric.folder, "postgres-disk"), ms);
      // It may have ended for want of room; an operator starts it once there is some.
      await fabric.postgres.start();
    },
  },
  {
    name: "journal.truncate",
    plan: planned,
    run: (fabric, plan) =>
      damaged(fabric, plan, (file) => {
        const fd = openSync(file, "r+");
        const { size } = statSync(file);
        ftruncateSync(fd, 64 + Math.floor((size - 64) * plan.share));
        closeSync(fd);
      }),
  },
  {
    name: "journal.flip",
    plan: planned,
    run: (fabric, plan) =>
      damaged(fabric, plan, (file) => {
        const fd = openSync(file, "r+");
        const { size } = statSync(file);
        const byte = Buffer.alloc(1);
        for (let n = 0; n < 3; n++) {
          const at = 64 + Math.floor((size - 65) * ((plan.share + n / 3) % 1));
          readSync(fd, byte, 0, 1, at);
          byte[0] ^= 1 << n;
          writeSync(fd, byte, 0, 1, at);
        }
        closeSync(fd);
      }),
  },
];
