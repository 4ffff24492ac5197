/**
 * Payload files on this machine, by digest, with who still needs them. A file that a task or a result here
 * refers to is pinned; what is not may stay as a cache, the longest unused going first.
 *
 * Bound: pinned files, plus `cacheBytes` of others.
 */
import {
  closeSync,
  open,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

const openFile = promisify(open);

export class PayloadStore {
  readonly #dir: string;
  readonly #cacheBytes: number;
  readonly #pins = new Map<string, number>();
  /** Unpinned files in order of last use. */
  readonly #idle = new Map<string, number>();
  #idleBytes = 0;

  constructor(dir: string, cacheBytes: number) {
    this.#dir = dir;
    this.#cacheBytes = cacheBytes;
    const found: { hex: string; sizeBytes: number; usedAtMs: number }[] = [];
    for (const name of readdirSync(dir)) {
      const path = join(dir, name);
      if (!/^[0-9a-f]{64}$/.test(name)) {
        rmSync(path, { force: true, recursive: true });
        continue;
      }
      const stat = statSync(path);
      found.push({ hex: name, sizeBytes: stat.size, usedAtMs: stat.mtimeMs });
    }
    for (const f of found.sort((a, b) => a.usedAtMs - b.usedAtMs)) this.#addIdle(f.hex, f.sizeBytes);
  }

  path(hex: string): string {
    return join(this.#dir, hex);
  }

  /** The file's size, or undefined where it is not here. */
  sizeOf(hex: string): number | undefined {
    return statSync(this.path(hex), { throwIfNoEntry: false })?.size;
  }

  /** Where a download of `hex` may write, before it is verified. */
  partPath(hex: string): string {
    return join(this.#dir, `${hex}.part`);
  }

  /**
   * Writes all of a download at once. It is not synced: after a crash of the machine it is fetched again. Only the
   * file's creation is left to the thread pool: it may wait for others' syncs, which what follows does not.
   */
  async writePart(hex: string, bytes: Buffer): Promise<void> {
    const fd = await openFile(this.partPath(hex), "w", 0o600);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
    } finally {
      closeSync(fd);
    }
  }

  /** Reads a small file into `buffer`; how many bytes it has. */
  read(hex: string, buffer: Buffer): number {
    const fd = openSync(this.path(hex), "r");
    try {
      let filled = 0;
      for (let n = -1; n !== 0 && filled < buffer.length; filled += n) {
        n = readSync(fd, buffer, filled, buffer.length - filled, null);
      }
      return filled;
    } finally {
      closeSync(fd);
    }
  }

  /** A verified part becomes the file. */
  adopt(hex: string): void {
    renameSync(this.partPath(hex), this.path(hex));
  }

  /** Something here needs the file until `unpin`. */
  pin(hex: string): void {
    this.#pins.set(hex, (this.#pins.get(hex) ?? 0) + 1);
    const idle = this.#idle.get(hex);
    if (idle === undefined) return;
    this.#idle.delete(hex);
    this.#idleBytes -= idle;
  }

  unpin(hex: string): void {
    const pins = this.#pins.get(hex) ?? 0;
    if (pins > 1) {
      this.#pins.set(hex, pins - 1);
      return;
    }
    this.#pins.delete(hex);
    const sizeBytes = this.sizeOf(hex);
    if (sizeBytes !== undefined) this.#addIdle(hex, sizeBytes);
    this.#evict();
  }

  /** Deletes what exceeds the cache. Called once what is live has been pinned, and after each unpin. */
  sweep(): void {
    this.#evict();
  }

  #addIdle(hex: string, sizeBytes: number): void {
    this.#idleBytes += sizeBytes - (this.#idle.get(hex) ?? 0);
    this.#idle.delete(hex);
    this.#idle.set(hex, sizeBytes);
  }

  #evict(): void {
    for (const [hex, sizeBytes] of this.#idle) {
      if (this.#idleBytes <= this.#cacheBytes) return;
      this.#idle.delete(hex);
      this.#idleBytes -= sizeBytes;
      rmSync(this.path(hex), { force: true });
    }
  }
}
