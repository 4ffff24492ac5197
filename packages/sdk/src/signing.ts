/**
 * Signing at the client's end (PROTOCOL.md P37): functions as they are registered, and calls as they are submitted. What
 * is signed is computed here, from what the caller gave: a service that answers with something else gets no signature.
 */
import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import {
  FarloomError,
  type FunctionDefinition,
  functionDigest,
  type InvocationStatement,
  isEncryptedKey,
  keyToUuid,
  MAX_AGENT_LOSSES,
  MAX_INVOCATION_S,
  MAX_WORKER_LOSSES,
  optionsDigest,
  readSignKey,
  type SignKey,
  signFunction,
  signInvocation,
} from "@farloom/protocol";
import type { FunctionInfo, FunctionSpec, FunctionsApi } from "./resources.js";
import type { Task } from "./task.js";

type Environment = Readonly<Record<string, string | undefined>>;

/** Where `farloom keys sign-key create` puts keys: `farloom/sign-keys` in the user's configuration directory. */
export function signKeysDir(env: Environment = process.env): string {
  return join(env.XDG_CONFIG_HOME || join(homedir(), ".config"), "farloom", "sign-keys");
}

/** The file of a key that is given as a path, or by its name alone. */
export function signKeyPath(given: string, env: Environment = process.env): string {
  return /[/\\.]/.test(given) ? given : join(signKeysDir(env), `${given}.pem`);
}

/**
 * A private key from its file, by path or name. Its passphrase: as given, then FARLOOM_SIGN_PASSPHRASE.
 * @throws FarloomError SIGNING_FAILED: no such file, readable by others, encrypted under another passphrase
 */
export function loadSignKey(given: string, passphrase?: string, env: Environment = process.env): SignKey {
  const path = signKeyPath(given, env);
  const fail = (detail: string, cause?: unknown) => new FarloomError("SIGNING_FAILED", { detail }, { cause });
  let text: string;
  try {
    if ((statSync(path).mode & 0o077) !== 0)
      throw fail(`others can read the key ${path}; run: chmod 600 '${path}'`);
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof FarloomError) throw error;
    throw fail(`the key ${path} cannot be read; make one with 'farloom keys sign-key create'`, error);
  }
  const phrase = passphrase ?? (env.FARLOOM_SIGN_PASSPHRASE || undefined);
  if (isEncryptedKey(text) && phrase === undefined)
    throw fail(`the key ${path} is encrypted: set FARLOOM_SIGN_PASSPHRASE`);
  try {
    return readSignKey(text, phrase);
  } catch (error) {
    throw fail(`the key ${path}: ${(error as Error).message}`, error);
  }
}

/** The definition that the service makes of a registration. Where the two differ, the digest shows it. */
export function definitionOf(spec: FunctionSpec): Omit<FunctionDefinition, "digest"> {
  const format = spec.format ?? "source";
  const retries = spec.retries ?? 0;
  const isCode = spec.runtime !== "command";
  return {
    runtime: spec.runtime,
    format,
    code: isCode ? Buffer.from(spec.code ?? "", format === "pickle" ? "base64" : "utf8") : Buffer.alloc(0),
    entry: isCode && format === "source" ? (spec.entry ?? spec.name) : "",
    mode: spec.mode ?? (retries > 0 ? "at_least_once" : "at_most_once"),
    timeoutMs: spec.timeoutMs ?? 0,
    retries,
    backoffMs: spec.backoffMs ?? 0,
    env: spec.env ?? {},
    resources: spec.resources ?? {},
    ...(spec.command === undefined ? {} : { command: spec.command }),
  };
}

/** Signs what was just registered, and hands the signature in. @throws FarloomError SIGNING_FAILED */
export async function signRegistered(
  api: FunctionsApi,
  { spec, info, key }: { readonly spec: FunctionSpec; readonly info: FunctionInfo; readonly key: SignKey },
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const digest = functionDigest(definitionOf(spec)).toString("hex");
  if (digest !== info.id)
    throw new FarloomError("SIGNING_FAILED", {
      detail: `the service keeps the function ${info.id}, and what was given is ${digest}`,
    });
  if (info.name !== spec.name)
    throw new FarloomError("SIGNING_FAILED", {
      detail: `the service calls it ${info.name}, not ${spec.name}`,
    });
  await signById(api, { id: digest, ref: info.ref, key }, options);
}

/** Signs a function by its digest, under the name that it has; the same again adds nothing. */
export async function signById(
  api: FunctionsApi,
  {
    id,
    ref,
    key,
    expires,
  }: { readonly id: string; readonly ref: string; readonly key: SignKey; readonly expires?: number },
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const { items } = await api.signatures(id, options);
  const isThere = items.some(
    (one) => one.name === ref && one.expiresAt === undefined && one.keyIds.includes(key.keyId),
  );
  if (isThere && expires === undefined) return;
  const created = Math.floor(Date.now() / 1000);
  const statement = { function: id, name: ref, created, ...(expires === undefined ? {} : { expires }) };
  await api.addSignature(ref, signFunction(statement, key), options);
}

/** How often a call may be begun: its retries, and what is begun again after a loss where that is allowed. */
export function attemptsOf(how: {
  readonly mode?: string | undefined;
  readonly retries?: number | undefined;
}): number {
  const losses = how.mode === "at_least_once" ? MAX_WORKER_LOSSES + MAX_AGENT_LOSSES : 0;
  return 1 + (how.retries ?? 0) + losses;
}

/** The signature over a call whose arguments are sealed and whose function and endpoint are known. */
export function signCall(task: Task, endpoint: Buffer, attempts: number, key: SignKey): string {
  const statement: InvocationStatement = {
    task: keyToUuid(task.key),
    function: task.digest!.toString("hex"),
    endpoint: keyToUuid(endpoint.toString("latin1")),
    arguments: task.seals!.toString("hex", task.sealAt, task.sealAt + 32),
    codec: task.codec,
    options: optionsDigest(task.options),
    attempts,
    expires: Math.floor(Date.now() / 1000) + MAX_INVOCATION_S,
    key: key.keyId,
  };
  return signInvocation(statement, key);
}
