/** How much room a disk has. */
import { statfsSync } from "node:fs";

/** Bytes that may still be written below `dir`; without bound where the system does not tell. */
export function roomOf(dir: string): number {
  try {
    const { bavail, bsize } = statfsSync(dir);
    return bavail * bsize;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
