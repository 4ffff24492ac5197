import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ConfigError } from "../config.js";
import { SecretKeys } from "./keys.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "fl-keys-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const line = (): string => randomBytes(32).toString("base64");
function write(text: string): string {
  const path = join(dir, "keys");
  writeFileSync(path, text);
  return path;
}
const VALUE = Buffer.from("hunter2-hunter2");

describe("the keys of secrets", () => {
  it("are made once, for their owner alone, and are the same at the next start", async () => {
    const [one, two] = await Promise.all([SecretKeys.load(dir, undefined), SecretKeys.load(dir, undefined)]);
    expect(one.sealingId).toBe(two.sealingId);
    expect(statSync(join(dir, "secrets-keys")).mode & 0o777).toBe(0o600);
    const sealed = one.seal(VALUE, "mine");
    expect(sealed.includes(VALUE)).toBe(false);
    expect((await SecretKeys.load(dir, undefined)).open(one.sealingId, sealed, "mine")).toEqual(VALUE);
  });

  it("open what the first of them seals, and what the others sealed before, for what it was sealed and unchanged", async () => {
    const [old, next] = [line(), line()];
    const before = await SecretKeys.load(dir, write(`${old}\n`));
    const sealed = before.seal(VALUE, "mine");
    const after = await SecretKeys.load(dir, write(`# the new one first\n${next}\n\n${old}\n`));
    expect(after.sealingId).not.toBe(before.sealingId);
    expect(after.open(before.sealingId, sealed, "mine")).toEqual(VALUE);
    expect(after.open(before.sealingId, sealed, "another's")).toBeUndefined();
    expect(after.open(after.sealingId, sealed, "mine")).toBeUndefined();
    for (const at of [0, 12, sealed.length - 1]) {
      const changed = Buffer.from(sealed);
      changed[at]! ^= 1;
      expect(after.open(before.sealingId, changed, "mine")).toBeUndefined();
    }
    expect(after.open(before.sealingId, sealed.subarray(0, 20), "mine")).toBeUndefined();
    const without = await SecretKeys.load(dir, write(next));
    expect(without.open(before.sealingId, sealed, "mine")).toBeUndefined();
  });

  it.each(["", "# none\n", "short\n", `${"A".repeat(40)}\n`])(
    "are refused where a file has none: %j",
    async (text) => {
      await expect(SecretKeys.load(dir, write(text))).rejects.toThrow(ConfigError);
    },
  );

  it("are not made where the file is named and not there", async () => {
    await expect(SecretKeys.load(dir, join(dir, "missing"))).rejects.toThrow(ConfigError);
  });
});
