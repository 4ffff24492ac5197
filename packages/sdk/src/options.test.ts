import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { resolveOptions } from "./options.js";

let folder: string;
let env: Record<string, string>;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "farloom-sdk-"));
  env = { FARLOOM_CONFIG: join(folder, "config.json") };
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = (content: object) => writeFileSync(env.FARLOOM_CONFIG!, JSON.stringify(content));

describe("settings", () => {
  test("an option wins over the environment, and that over the file", () => {
    file({ url: "http://file", apiKey: "file", endpoint: "file" });
    expect(resolveOptions({}, env)).toMatchObject({ url: "http://file", apiKey: "file", endpoint: "file" });
    env.FARLOOM_ENDPOINT = "env";
    expect(resolveOptions({}, env).endpoint).toBe("env");
    expect(resolveOptions({ endpoint: "option" }, env).endpoint).toBe("option");
  });

  test("a key from the file is never sent to another service", () => {
    file({ url: "http://file", apiKey: "secret" });
    expect(() => resolveOptions({ url: "http://elsewhere" }, env)).toThrow("FARLOOM_API_KEY");
    expect(resolveOptions({ url: "http://file/" }, env).apiKey).toBe("secret");
  });

  test("what is missing is named, with how to set it", () => {
    expect(() => resolveOptions({}, env)).toThrow(/FARLOOM_URL.*farloom dev/);
    expect(() => resolveOptions({ url: "http://x" }, env)).toThrow(/FARLOOM_API_KEY.*farloom login/);
  });

  test("an address that is none is refused", () => {
    expect(() => resolveOptions({ url: "localhost:8722", apiKey: "k" }, env)).toThrow("http://");
  });

  test("a broken configuration file is named", () => {
    writeFileSync(env.FARLOOM_CONFIG!, "{");
    expect(() => resolveOptions({}, env)).toThrow("config.json");
  });
});
