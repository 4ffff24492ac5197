import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyAt, makeSignKey, newBatchId, publicKeyLine } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { resolveConfig } from "../config.js";
import { enforceFromNowOn, runTrustCommand } from "./command.js";
import { InvocationLedger, nowSeconds } from "./invocation-ledger.js";
import { readTrust } from "./trust-file.js";
import { TrustSource } from "./trust-source.js";

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-trust-"));
  path = join(dir, "trust.toml");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const line = publicKeyLine(makeSignKey().raw, "ada");
const write = (text: string, mode = 0o600) => {
  writeFileSync(path, text);
  chmodSync(path, mode);
};

describe("trust.toml", () => {
  it("trusts nobody where it is not there, and says no mode", () => {
    expect(readTrust(path)).toMatchObject({ mode: undefined, invocations: "code", keys: [] });
  });

  it("is refused where others can write it, and read where they can only read", () => {
    write('mode = "warn"\n', 0o644);
    expect(readTrust(path).mode).toBe("warn");
    for (const mode of [0o620, 0o602]) {
      write('mode = "warn"\n', mode);
      expect(() => readTrust(path)).toThrow(/others can write .*chmod go-w/);
    }
  });

  it.each([
    ['mode = "on"', /mode is 'on'/],
    ['invocations = "some"', /invocations is 'some'/],
    ['modes = "off"', /no option 'modes'/],
    ['deny = ["ada/f"]', /deny is not a list of ids/],
    ['[[key]]\nkey = "ed25519:AAAA"', /a public key is a line/],
    [`[[key]]\nkey = "${line}"\nfunctions = ["f"]`, /neither an id/],
    [`[[key]]\nkey = "${line}"\nfunctions = "ada/f"`, /are not a list/],
    [`[[key]]\nkey = "${line}"\nnot_after = "soon"`, /is not a time/],
    [`[[key]]\nkey = "${line}"\nuntil = 2030-01-01`, /no option 'until'/],
    [`[[key]]\nkey = "${line}"\nrevoked = "no"`, /revoked .* is not true or false/],
    [`[[key]]\nkey = "ed25519:${Buffer.alloc(32).toString("base64")}"`, /point of small order/],
    ["mode", /is not TOML/],
  ])("is refused with a word on what is wrong: %s", (text, why) => {
    write(text);
    expect(() => readTrust(path)).toThrow(why);
  });
});

describe("the mode", () => {
  const mode = (agentToml: string, options = {}, env = {}) => {
    writeFileSync(join(dir, "agent.toml"), agentToml);
    const source = new TrustSource(path, resolveConfig({ stateDir: dir, ...options }, env).trust);
    source.close();
    return source.mode;
  };

  it("is off for an endpoint of one's own, and enforce where its configuration expects others", () => {
    expect(mode("")).toBe("off");
    expect(mode('provider = "local"')).toBe("off");
    for (const open of ["shared = true", "commands = true", 'provider = "process"'])
      expect(mode(open), open).toBe("enforce");
  });

  it("is what the file says before that, and what this start says before the file", () => {
    write('mode = "warn"\n');
    expect(mode("shared = true")).toBe("warn");
    expect(mode("shared = true", {}, { FARLOOM_AGENT_TRUST: "enforce" })).toBe("enforce");
    expect(mode("shared = true", { trust: "off" }, { FARLOOM_AGENT_TRUST: "enforce" })).toBe("off");
    expect(() => mode("", { trust: "maybe" })).toThrow(/option trust is 'maybe'/);
  });

  it("stays as it was where the file breaks later, and then nothing is trusted", () => {
    write(`mode = "enforce"\n[[key]]\nkey = "${line}"\nfunctions = ["ada/*"]\n`);
    const source = new TrustSource(path, { mode: undefined, byDefault: "off" });
    write("mode = ");
    source.reload();
    source.close();
    expect(source).toMatchObject({
      mode: "enforce",
      trust: { keys: [] },
      problem: expect.stringMatching(/not TOML/),
    });
  });
});

describe("the commands", () => {
  const run = (words: string[], flags = {}) =>
    runTrustCommand(resolveConfig({ stateDir: dir }, {}), words, flags) as {
      keys: unknown[];
      mode: string;
      deny: string[];
    };

  it("add, change and remove keys, and leave the rest of the file as it was", () => {
    enforceFromNowOn(path);
    expect(run(["add", line], { function: ["ada/*"] })).toMatchObject({
      mode: "enforce",
      keys: [{ name: "ada", functions: ["ada/*"], invokes: ["ada/*"] }],
    });
    expect(run(["add", line], { invoke: ["*/*"], notAfter: "2030-01-01T00:00:00Z" }).keys).toMatchObject([
      { functions: ["ada/*"], invokes: ["*/*"], notAfter: "2030-01-01T00:00:00.000Z" },
    ]);
    expect(run(["deny", "ab".repeat(32)]).deny).toEqual(["ab".repeat(32)]);
    expect(run(["mode", "warn"], { invocations: "all" })).toMatchObject({ mode: "warn", invocations: "all" });
    expect(run(["remove", "ada"])).toMatchObject({ mode: "warn", keys: [], deny: ["ab".repeat(32)] });
    expect(() => run(["add", line])).toThrow(/say for which functions/);
    expect(() => run(["deny", "ada/f"])).toThrow(/list of ids/);
    expect(readFileSync(path, "utf8")).not.toContain("ada/f");
  });
});

describe("the ledger of signed calls", () => {
  const task = keyAt(newBatchId());
  const open = () => new InvocationLedger(join(dir, "invocations"));
  const call = (more = {}) => ({ expires: nowSeconds() + 60, attempts: 1, isHeld: false, ...more });

  it("takes an attempt once, over restarts, but for what its own journal holds", () => {
    let ledger = open();
    expect(ledger.take(task, 1, call())).toBeUndefined();
    for (let life = 0; life < 3; life++) {
      expect(ledger.take(task, 1, call())).toMatch(/begun before/);
      expect(ledger.take(task, 1, call({ isHeld: true }))).toBeUndefined();
      expect(ledger.take(task, 2, call())).toMatch(/as often as was signed/);
      ledger.close();
      ledger = open();
    }
    ledger.close();
  });

  it("takes again what was given back unbegun, over restarts", () => {
    let ledger = open();
    ledger.take(task, 1, call());
    ledger.release(task, 1);
    ledger.close();
    ledger = open();
    expect(ledger.take(task, 1, call())).toBeUndefined();
    ledger.close();
  });

  it("takes nothing that it cannot write down, and goes on when it can", () => {
    const there = join(dir, "disk");
    const ledger = new InvocationLedger(join(there, "invocations"));
    expect(ledger.take(task, 1, call())).toMatch(/cannot be written here: ENOENT/);
    mkdirSync(there);
    expect(ledger.take(task, 1, call())).toBeUndefined();
    ledger.close();
    rmSync(there, { recursive: true });
    // What came back is let go, though nobody could write that.
    ledger.release(task, 1);
    expect(ledger.take(task, 1, call())).toMatch(/cannot be written/);
    mkdirSync(there);
    expect(ledger.take(task, 1, call())).toBeUndefined();
    ledger.close();
    expect(new InvocationLedger(join(there, "invocations")).take(task, 1, call())).toMatch(/begun before/);
  });

  it("forgets what has expired, and reads on after a torn end", () => {
    const other = keyAt(newBatchId());
    let ledger = open();
    ledger.take(task, 1, call({ expires: 1 }));
    ledger.take(other, 1, call());
    ledger.take(task, 2, call({ attempts: 2 }));
    ledger.close();
    truncateSync(join(dir, "invocations"), 3 * 32 - 5);
    ledger = open();
    expect(ledger.take(other, 1, call())).toMatch(/begun before/);
    expect(ledger.take(task, 1, call())).toBeUndefined();
    ledger.close();
  });
});
