/** Every kind of fault, by name. */
import { CLOCK_KINDS } from "./clock.mjs";
import { DISK_KINDS } from "./disk.mjs";
import { KERNEL_KINDS } from "./kernel.mjs";
import { NETWORK_KINDS } from "./network.mjs";
import { PROCESS_KINDS } from "./processes.mjs";
import { STORE_KINDS } from "./stores.mjs";

/**
 * What there is to break, for plans and needs.
 * @typedef {object} Shape
 * @property {number} services
 * @property {number} agents
 * @property {number} clients
 * @property {boolean} redis
 * @property {boolean} agentDisk the last agent's state folder is a small disk
 * @property {boolean} postgresDisk
 * @property {boolean} clocks the last service and the last agent have clocks of their own
 * @property {boolean} kernel
 */

/**
 * @typedef {object} Kind
 * @property {string} name
 * @property {((shape: Shape) => string | undefined) | undefined} [needs] why it cannot be had here
 * @property {(random: ReturnType<typeof import("../random.mjs").seededRandom>, shape: Shape) => Record<string, any> & {touches: string[]}} plan
 *   drawn from the seed alone; `touches`: what no other fault may touch meanwhile
 * @property {(fabric: import("../topology/fabric.mjs").FaultFabric, plan: any) => Promise<unknown>} run breaks, waits, mends
 */

/** @type {readonly Kind[]} */
export const KINDS = [
  ...PROCESS_KINDS,
  ...NETWORK_KINDS,
  ...STORE_KINDS,
  ...DISK_KINDS,
  ...CLOCK_KINDS,
  ...KERNEL_KINDS,
];
