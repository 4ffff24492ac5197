import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { defineFunction } from "../../../test/support/fake-service.js";
import { FunctionsCache, functionKey } from "./functions-cache.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-functions-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it("a definition outlives the agent", () => {
  const def = defineFunction();
  expect(new FunctionsCache(dir).put(def)).toBe(true);
  const next = new FunctionsCache(dir);
  expect(next.put(def)).toBe(false);
  expect(next.get(functionKey(def.digest))).toEqual(def);
});

it("a damaged definition is as one that is not here, and half a file is never taken for one", () => {
  const def = defineFunction();
  const key = functionKey(def.digest);
  new FunctionsCache(dir).put(def);
  const name = readdirSync(dir)[0]!;
  writeFileSync(join(dir, name), "damaged");
  writeFileSync(join(dir, `${name}.new`), "half");
  const cache = new FunctionsCache(dir);
  expect(cache.has(key)).toBe(true);
  expect(cache.get(key)).toBeUndefined();
  expect(cache.has(key)).toBe(false);
  expect(readdirSync(dir)).toEqual([]);
});

it("a definition whose bytes were changed is refused: its digest is not true any more", () => {
  const def = defineFunction();
  const cache = new FunctionsCache(dir);
  cache.put({ ...def, code: Buffer.from("def f(): steal()\n") });
  expect(cache.get(functionKey(def.digest))).toBeUndefined();
});

it("what a definition is called is kept with it, every name of several, and only as many as there is room for", () => {
  const def = defineFunction();
  const key = functionKey(def.digest);
  const cache = new FunctionsCache(dir);
  expect(cache.refsOf(key)).toEqual([]);
  cache.put(def, "ann/f@1");
  cache.put(def, "ann/g@2");
  cache.put(def, "ann/f@1");
  cache.put(def);
  expect(cache.refsOf(key).toSorted()).toEqual(["ann/f@1", "ann/g@2"]);
  const next = new FunctionsCache(dir);
  expect(next.refsOf(key).toSorted()).toEqual(["ann/f@1", "ann/g@2"]);
  expect(next.get(key)).toMatchObject(def);
  for (let i = 0; i < 100; i++) next.put(def, `ann/name-${i}@1`);
  expect(next.refsOf(key).length).toBe(16);
});
