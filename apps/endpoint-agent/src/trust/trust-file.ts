/**
 * `trust.toml` of the state folder: whose functions this agent runs, and whose calls.
 *
 *     mode = "enforce"                     # enforce, warn or off; absent: by the endpoint's configuration
 *     invocations = "code"                 # off, code or all: which calls their caller must have signed
 *     deny = ["<id>"]                      # functions that do not run, whoever signed them
 *     [[key]]
 *     name = "ada"
 *     key = "ed25519:…"
 *     functions = ["ada/*"]                # what it signs
 *     invokes = ["ada/*"]                  # whose calls it signs
 *     not_before = 2026-01-01T00:00:00Z    # optional
 *     not_after = 2027-01-01T00:00:00Z     # optional
 *     revoked = true                       # optional
 *
 * A file that others can write is nobody's word, and one that cannot be read trusts nobody: both are errors.
 */

import type { KeyObject } from "node:crypto";
import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import {
  checkFunctionPattern,
  type FunctionMatcher,
  functionMatcher,
  MAX_PATTERNS,
  parsePublicKey,
  publicKeyObject,
} from "@farloom/protocol";
import { parse as parseToml, stringify as stringifyToml } from "smol-toml";

export const TRUST_MODES = ["enforce", "warn", "off"] as const;
export type TrustMode = (typeof TRUST_MODES)[number];

/** Which calls their caller must have signed: none; those whose arguments are code; all. */
export const INVOCATION_RULES = ["off", "code", "all"] as const;
export type InvocationRule = (typeof INVOCATION_RULES)[number];

/** A key in the file, ready to check with. Times in seconds since 1970. */
export interface TrustedKey {
  readonly name: string;
  readonly keyId: string;
  readonly raw: Buffer;
  readonly publicKey: KeyObject;
  readonly functions: readonly string[];
  readonly invokes: readonly string[];
  readonly signs: FunctionMatcher;
  readonly calls: FunctionMatcher;
  readonly notBefore: number | undefined;
  readonly notAfter: number | undefined;
  readonly isRevoked: boolean;
}

export interface Trust {
  readonly mode: TrustMode | undefined;
  readonly invocations: InvocationRule;
  /** Ids of functions. */
  readonly deny: ReadonlySet<string>;
  readonly keys: readonly TrustedKey[];
}

export const NO_TRUST: Trust = Object.freeze({
  mode: undefined,
  invocations: "code",
  deny: new Set<string>(),
  keys: [],
});

/** Each signature is tried with each key. */
const MAX_KEYS = 256;
const MAX_FILE_BYTES = 1024 * 1024;

/** What the file says; nothing where there is none. Throws an Error that says what is wrong with it. */
export function readTrust(path: string): Trust {
  const table = readTable(path);
  if (table === undefined) return NO_TRUST;
  try {
    return trustOf(table);
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** The file as it stands, for whoever changes it. */
export function readTable(path: string): Record<string, unknown> | undefined {
  let stat: ReturnType<typeof statSync>;
  try {
    stat = statSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Error(`${path} cannot be read`, { cause: error });
  }
  const uid = process.getuid?.();
  if (uid !== undefined && stat.uid !== uid && stat.uid !== 0)
    throw new Error(
      `${path} belongs to user ${stat.uid}, not to ${uid} or root: whom it trusts is not yours`,
    );
  if ((stat.mode & 0o022) !== 0) throw new Error(`others can write ${path}; run: chmod go-w '${path}'`);
  if (stat.size > MAX_FILE_BYTES) throw new Error(`${path} has more than ${MAX_FILE_BYTES} bytes`);
  try {
    return parseToml(readFileSync(path, "utf8"));
  } catch (error) {
    throw new Error(`${path} is not TOML: ${(error as Error).message}`, { cause: error });
  }
}

/** Replaces the file, whole or not at all. */
export function writeTable(path: string, table: Record<string, unknown>): void {
  trustOf(table);
  writeFileSync(`${path}.new`, stringifyToml(table), { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
}

/** A key as its table in the file has it. Throws an Error that says what is wrong. */
export function keyOf(value: unknown): TrustedKey {
  if (typeof value !== "object" || value === null) throw new Error("a key is a table");
  const {
    name = "",
    key,
    functions = [],
    invokes = [],
    not_before,
    not_after,
    revoked = false,
    ...rest
  } = value as Record<string, unknown>;
  const what = `the key ${JSON.stringify(name)}`;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new Error(`${what} has no option '${unknown}'`);
  const parsed = parsePublicKey(String(key));
  if ("why" in parsed) throw new Error(`${what}: ${parsed.why}`);
  const signs = patterns(functions, `functions of ${what}`);
  const calls = patterns(invokes, `invokes of ${what}`);
  if (typeof revoked !== "boolean") throw new Error(`revoked of ${what} is not true or false`);
  return {
    name: String(name) || parsed.comment || parsed.keyId,
    keyId: parsed.keyId,
    raw: parsed.raw,
    publicKey: publicKeyObject(parsed.raw),
    functions: signs,
    invokes: calls,
    signs: functionMatcher(signs),
    calls: functionMatcher(calls),
    notBefore: time(not_before, `not_before of ${what}`),
    notAfter: time(not_after, `not_after of ${what}`),
    isRevoked: revoked,
  };
}

function trustOf(table: Record<string, unknown>): Trust {
  const { mode, invocations = "code", deny = [], key = [], ...rest } = table;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new Error(`there is no option '${unknown}'`);
  if (mode !== undefined && !TRUST_MODES.includes(mode as TrustMode))
    throw new Error(`mode is '${String(mode)}', not one of ${TRUST_MODES.join(", ")}`);
  if (!INVOCATION_RULES.includes(invocations as InvocationRule))
    throw new Error(`invocations is '${String(invocations)}', not one of ${INVOCATION_RULES.join(", ")}`);
  if (!Array.isArray(deny) || !deny.every((id) => typeof id === "string" && /^[0-9a-f]{64}$/.test(id)))
    throw new Error("deny is not a list of ids of functions");
  if (!Array.isArray(key) || key.length > MAX_KEYS)
    throw new Error(`[[key]] is there at most ${MAX_KEYS} times`);
  return {
    mode: mode as TrustMode | undefined,
    invocations: invocations as InvocationRule,
    deny: new Set(deny as string[]),
    keys: key.map(keyOf),
  };
}

function patterns(value: unknown, what: string): readonly string[] {
  if (!Array.isArray(value) || value.length > MAX_PATTERNS) throw new Error(`${what} are not a list`);
  for (const text of value as unknown[]) {
    const bad = checkFunctionPattern(String(text));
    if (bad !== undefined) throw new Error(`${what}: ${bad}`);
  }
  return value as string[];
}

function time(value: unknown, what: string): number | undefined {
  if (value === undefined) return undefined;
  const ms = value instanceof Date || typeof value === "string" ? new Date(value).getTime() : Number.NaN;
  if (Number.isNaN(ms)) throw new Error(`${what} is not a time such as 2027-01-01T00:00:00Z`);
  return Math.floor(ms / 1000);
}
