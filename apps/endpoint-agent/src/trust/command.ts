/**
 * `farloom-endpoint-agent trust …`: what stands in trust.toml, read and changed. A running agent hears of the change by
 * itself. Every answer is JSON; `farloom endpoint trust` says it to people.
 */
import { readFileSync } from "node:fs";
import { checkFunctionPattern, parsePublicKey, publicKeyLine } from "@farloom/protocol";
import type { AgentConfig } from "../config.js";
import { openStateDir } from "../state/state-dir.js";
import { nowSeconds } from "./invocation-ledger.js";
import { judgeFunction } from "./judge.js";
import {
  INVOCATION_RULES,
  keyOf,
  readTable,
  readTrust,
  TRUST_MODES,
  type TrustedKey,
  writeTable,
} from "./trust-file.js";

export interface TrustFlags {
  readonly name?: string | undefined;
  readonly function?: readonly string[] | undefined;
  readonly invoke?: readonly string[] | undefined;
  readonly notAfter?: string | undefined;
  readonly invocations?: string | undefined;
}

export const TRUST_USAGE = `trust list
  trust add KEY|FILE [--name N] [--function REF]… [--invoke REF]… [--not-after TIME]
  trust remove NAME|KEY|ID     trust deny FUNCTION-ID     trust mode enforce|warn|off [--invocations off|code|all]
  trust check                  (reads {"id", "envelopes"} from standard input)`;

type Table = Record<string, unknown>;

/** Carries out one command; the answer. Throws an Error that says what is wrong with it. */
export function runTrustCommand(config: AgentConfig, words: readonly string[], flags: TrustFlags): unknown {
  const path = openStateDir(config.stateDir).trustFile;
  const [verb = "list", word, more] = words;
  if (more !== undefined) throw new Error(`unexpected argument ${more}`);
  const needed = (): string => {
    if (word === undefined) throw new Error(`trust ${verb} needs an argument`);
    return word;
  };
  switch (verb) {
    case "list":
      return describe(config, path);
    case "add":
      add(path, needed(), flags);
      return describe(config, path);
    case "remove":
      remove(path, needed());
      return describe(config, path);
    case "deny":
      deny(path, needed());
      return describe(config, path);
    case "mode":
      setMode(path, needed(), flags.invocations);
      return describe(config, path);
    case "check":
      return check(path);
    default:
      throw new Error(`there is no command trust ${verb}`);
  }
}

/** Enrolment as a shared endpoint: what is not signed does not run, whatever the service says later. */
export function enforceFromNowOn(path: string): void {
  const table = readTable(path) ?? {};
  writeTable(path, { ...table, mode: "enforce" });
}

function describe({ trust: { mode, byDefault } }: AgentConfig, path: string) {
  const trust = readTrust(path);
  return {
    file: path,
    mode: mode ?? trust.mode ?? byDefault,
    invocations: trust.invocations,
    deny: [...trust.deny],
    keys: trust.keys.map((key) => view(key)),
  };
}

function view(key: TrustedKey) {
  const { name, keyId, functions, invokes, notBefore, notAfter, isRevoked } = key;
  const time = (seconds: number | undefined) =>
    seconds === undefined ? undefined : new Date(seconds * 1000).toISOString();
  return {
    name,
    keyId,
    key: publicKeyLine(key.raw, ""),
    functions,
    invokes,
    notBefore: time(notBefore),
    notAfter: time(notAfter),
    isRevoked,
  };
}

/** A key that is there already gets what is said anew. */
function add(path: string, word: string, flags: TrustFlags): void {
  const line = word.startsWith("ed25519:") ? word : readFileSync(word, "utf8").trim();
  const parsed = parsePublicKey(line);
  if ("why" in parsed) throw new Error(parsed.why);
  const table = readTable(path) ?? {};
  const keys = tablesOf(table);
  const before = keys.find((entry) => keyOf(entry).raw.equals(parsed.raw));
  const functions = flags.function ?? (before?.functions as string[] | undefined) ?? [];
  for (const pattern of [...functions, ...(flags.invoke ?? [])]) {
    const bad = checkFunctionPattern(pattern);
    if (bad !== undefined) throw new Error(bad);
  }
  if (functions.length === 0 && (flags.invoke ?? []).length === 0)
    throw new Error(
      "say for which functions the key is trusted: --function OWNER/NAME, with * for any letters",
    );
  const entry: Table = {
    name: flags.name ?? before?.name ?? (parsed.comment || parsed.keyId),
    key: publicKeyLine(parsed.raw, ""),
    functions,
    // Who may write a function may call it, where nothing else is said.
    invokes: flags.invoke ?? before?.invokes ?? functions,
    ...(before?.not_before === undefined ? {} : { not_before: before.not_before }),
    ...(flags.notAfter === undefined
      ? before?.not_after === undefined
        ? {}
        : { not_after: before.not_after }
      : { not_after: flags.notAfter }),
  };
  writeTable(path, { ...table, key: [...keys.filter((other) => other !== before), entry] });
}

function remove(path: string, word: string): void {
  const table = readTable(path) ?? {};
  const keys = tablesOf(table);
  const left = keys.filter((entry) => {
    const key = keyOf(entry);
    const line = publicKeyLine(key.raw, "");
    return key.name !== word && key.keyId !== word && line !== word.split(/\s/, 1)[0];
  });
  if (left.length === keys.length)
    throw new Error(`there is no key ${word}; farloom endpoint trust list shows them`);
  writeTable(path, { ...table, key: left });
}

function deny(path: string, id: string): void {
  const table = readTable(path) ?? {};
  const before = (table.deny as string[] | undefined) ?? [];
  writeTable(path, { ...table, deny: [...new Set([...before, id])] });
}

function setMode(path: string, mode: string, invocations: string | undefined): void {
  if (!(TRUST_MODES as readonly string[]).includes(mode))
    throw new Error(`'${mode}' is not one of ${TRUST_MODES.join(", ")}`);
  if (invocations !== undefined && !(INVOCATION_RULES as readonly string[]).includes(invocations))
    throw new Error(`'${invocations}' is not one of ${INVOCATION_RULES.join(", ")}`);
  const table = readTable(path) ?? {};
  writeTable(path, { ...table, mode, ...(invocations === undefined ? {} : { invocations }) });
}

function check(path: string) {
  const { id, envelopes } = JSON.parse(readFileSync(0, "utf8")) as { id: string; envelopes: string[] };
  const verdict = judgeFunction(id, envelopes, readTrust(path), nowSeconds());
  if (!verdict.isTrusted) return verdict;
  const { isTrusted, names, signer, until } = verdict;
  return {
    isTrusted,
    names,
    signer,
    ...(Number.isFinite(until) ? { until: new Date(until * 1000).toISOString() } : {}),
  };
}

function tablesOf(table: Table): Table[] {
  return (table.key as Table[] | undefined) ?? [];
}
