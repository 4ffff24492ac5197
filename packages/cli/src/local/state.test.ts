import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { freePort, lockState, openState } from "./state.js";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "farloom-state-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("the folder is for its owner alone, and not for a repository", () => {
  const state = openState(join(folder, ".farloom"));
  expect(statSync(state.root).mode & 0o077).toBe(0);
  expect(readFileSync(join(state.root, ".gitignore"), "utf8")).toBe("*\n");
});

test("a second process hears who has the state; a lock whose holder is gone is taken", () => {
  const state = openState(folder);
  const lock = lockState(state);
  expect("release" in lock).toBe(true);
  expect(lockState(state)).toMatchObject({ heldBy: { pid: process.pid } });
  if ("release" in lock) lock.release();
  writeFileSync(state.lockFile, JSON.stringify({ pid: process.pid, start: "another process's" }));
  expect("release" in lockState(state)).toBe(true);
});

test("a port that is taken is passed over", async () => {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const taken = (server.address() as { port: number }).port;
  expect(await freePort("127.0.0.1", taken)).toBeGreaterThan(taken);
  server.close();
});
