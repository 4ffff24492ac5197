/** Files with a key in them, for their owner's eyes only: whole or not at all, and never readable by others meanwhile. */
import { randomBytes } from "node:crypto";
import { link, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/** Leaves a file that is there as it is; of two processes that start at once, one wins. */
export function makeKeyFile(path: string, text: string): Promise<void> {
  return place(path, text, (temp) =>
    link(temp, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    }),
  );
}

/** In the place of whatever was there. */
export function replaceKeyFile(path: string, text: string): Promise<void> {
  return place(path, text, (temp) => rename(temp, path));
}

/** Mode 0600, written aside and synced before it is put in its place. */
async function place(path: string, text: string, put: (temp: string) => Promise<void>): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temp = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    const handle = await open(temp, "wx", 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await put(temp);
  } finally {
    await rm(temp, { force: true });
  }
}
