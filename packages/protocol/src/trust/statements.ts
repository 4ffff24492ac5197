/**
 * What is signed: that a function is somebody's (P37a), and that somebody calls it (P37d). Times are seconds since 1970
 * by the signer's clock. A statement has exactly its fields, as canonical JSON in printable ASCII.
 */
import { createHash } from "node:crypto";
import type { TaskOptions } from "../frames/frames.js";
import { canonicalJson } from "../functions/definition.js";
import { isUuid } from "../ids.js";
import { type Envelope, hasExactly, signEnvelope } from "./dsse.js";
import type { SignKey } from "./keys.js";

export const FUNCTION_PAYLOAD_TYPE = "application/vnd.farloom.function.v1+json";
export const INVOCATION_PAYLOAD_TYPE = "application/vnd.farloom.invocation.v1+json";

/** How long a signed invocation may be good for: whoever runs it remembers it until then. */
export const MAX_INVOCATION_S = 7 * 86_400;

/** "These bytes are my function of this name." */
export interface FunctionStatement {
  /** The digest of its definition, 64 hexadecimal digits. */
  readonly function: string;
  /** `owner/name`, for every version of it, or `owner/name@version`. */
  readonly name: string;
  readonly created: number;
  /** From then on it counts no more. */
  readonly expires?: number;
}

/** "I call this function with these arguments there." */
export interface InvocationStatement {
  /** The task's id, as a UUID: batch and index. */
  readonly task: string;
  readonly function: string;
  /** The endpoint's id, as a UUID. */
  readonly endpoint: string;
  /** The seal over the arguments as they travel (P25), 64 hexadecimal digits. */
  readonly arguments: string;
  /** How the arguments are encoded, as the column `codecs` says it. */
  readonly codec: number;
  /** `optionsDigest` of the call's options. */
  readonly options: string;
  /** How often it may be begun, retries included. */
  readonly attempts: number;
  readonly expires: number;
  /** The id of the key that signs. */
  readonly key: string;
}

const HEX_64 = /^[0-9a-f]{64}$/;
const KEY_ID = /^[0-9a-f]{16}$/;
const NAME = /^[A-Za-z0-9_.-]{1,63}\/[A-Za-z0-9_.-]{1,128}(?:@\d{1,9})?$/;
const isTime = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** SHA-256, in hexadecimal digits, of what of a call's options changes what is run: its environment and directory. */
export function optionsDigest(options: TaskOptions | undefined): string {
  const { env, cwd } = options ?? {};
  const isPlain = env === undefined || Object.keys(env).length === 0;
  const text = canonicalJson({ ...(isPlain ? {} : { env }), ...(cwd === undefined ? {} : { cwd }) });
  return createHash("sha256").update(text).digest("hex");
}

/** Signs a function. */
export function signFunction(statement: FunctionStatement, signer: SignKey): string {
  return signEnvelope(FUNCTION_PAYLOAD_TYPE, encode(statement), signer);
}

/** Signs a call. */
export function signInvocation(statement: InvocationStatement, signer: SignKey): string {
  return signEnvelope(INVOCATION_PAYLOAD_TYPE, encode(statement), signer);
}

/** The function statement in an envelope; nothing says yet whose it is. Undefined where there is none. */
export function functionStatement(envelope: Envelope): FunctionStatement | undefined {
  const value = decode(envelope, FUNCTION_PAYLOAD_TYPE);
  const fields = ["created", "function", "name"] as const;
  if (!hasExactly(value, fields) && !hasExactly(value, [...fields, "expires"])) return undefined;
  const { name, created, expires, function: digest } = value as Record<string, unknown>;
  if (typeof digest !== "string" || !HEX_64.test(digest)) return undefined;
  if (typeof name !== "string" || !NAME.test(name) || !isTime(created)) return undefined;
  if (expires !== undefined && !isTime(expires)) return undefined;
  return { function: digest, name, created, ...(expires === undefined ? {} : { expires }) };
}

/** The invocation statement in an envelope; nothing says yet whose it is. Undefined where there is none. */
export function invocationStatement(envelope: Envelope): InvocationStatement | undefined {
  const value = decode(envelope, INVOCATION_PAYLOAD_TYPE);
  const fields = [
    "arguments",
    "attempts",
    "codec",
    "endpoint",
    "expires",
    "function",
    "key",
    "options",
    "task",
  ] as const;
  if (!hasExactly(value, fields)) return undefined;
  const digests = [value.arguments, value.function, value.options];
  if (!digests.every((text) => typeof text === "string" && HEX_64.test(text))) return undefined;
  const ids = [value.task, value.endpoint];
  if (!ids.every((text) => typeof text === "string" && isUuid(text) && text === text.toLowerCase()))
    return undefined;
  if (typeof value.key !== "string" || !KEY_ID.test(value.key)) return undefined;
  const { attempts, codec, expires } = value;
  if (!isTime(attempts) || attempts < 1 || !isTime(expires) || !isTime(codec) || codec > 255)
    return undefined;
  return value as unknown as InvocationStatement;
}

function encode(statement: FunctionStatement | InvocationStatement): Buffer {
  return Buffer.from(canonicalJson(statement));
}

function decode({ payloadType, payload }: Envelope, type: string): unknown {
  if (payloadType !== type) return undefined;
  const text = payload.toString("latin1");
  if (!/^[\x20-\x7e]+$/.test(text)) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return canonicalJson(value) === text ? value : undefined;
  } catch {
    return undefined;
  }
}
