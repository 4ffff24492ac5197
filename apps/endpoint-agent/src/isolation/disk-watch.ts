/**
 * How much a worker's folder holds, looked at while a task runs. There is no quota that every file system has, so this
 * one is watched and not enforced: a task passes it by what it can write between two looks, and is then ended.
 */
import { lstat, opendir } from "node:fs/promises";
import { join } from "node:path";

const LOOK_EVERY_MS = 250;
/** Of more files than this no sum is made: that many alone are reason enough. */
const MAX_FILES = 100_000;

export class DiskWatch {
  readonly #dirs: readonly string[];
  readonly #mostBytes: number;
  #looking = false;
  #lookedAtMs = Number.NEGATIVE_INFINITY;

  /** `mostMb` 0: no bound. */
  constructor(dirs: readonly string[], mostMb: number) {
    this.#dirs = dirs;
    this.#mostBytes = mostMb * 1024 ** 2;
  }

  /** Called as often as one likes; `onFull` where the folders hold too much. */
  look(onFull: () => void, nowMs = performance.now()): void {
    if (this.#mostBytes === 0 || this.#looking || nowMs - this.#lookedAtMs < LOOK_EVERY_MS) return;
    this.#looking = true;
    void this.#sum().then((bytes) => {
      this.#looking = false;
      this.#lookedAtMs = performance.now();
      if (bytes > this.#mostBytes) onFull();
    });
  }

  async #sum(): Promise<number> {
    let bytes = 0;
    let files = 0;
    const open = [...this.#dirs];
    while (open.length > 0) {
      const dir = open.pop()!;
      try {
        for await (const entry of await opendir(dir)) {
          if (++files > MAX_FILES) return Number.POSITIVE_INFINITY;
          const path = join(dir, entry.name);
          if (entry.isDirectory()) open.push(path);
          else bytes += (await lstat(path)).blocks * 512;
        }
      } catch {
        // Gone meanwhile, or closed to us.
      }
    }
    return bytes;
  }
}
