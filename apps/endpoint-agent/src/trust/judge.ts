/**
 * The verdicts, as pure functions of what was signed, what is trusted and the time (P37c, P37d). What the service says a
 * function is called plays no part: the name that counts is the one that was signed.
 */
import {
  type Envelope,
  functionStatement,
  type InvocationStatement,
  invocationStatement,
  isSignedBy,
  MAX_INVOCATION_S,
  parseEnvelope,
} from "@farloom/protocol";
import type { Trust, TrustedKey } from "./trust-file.js";

/** Clocks of signers and of this machine may differ by so much. */
export const SKEW_S = 300;

export type FunctionVerdict =
  | {
      readonly isTrusted: true;
      /** The names that were signed, as `owner/name@version` (`@all` for every version). */
      readonly names: readonly string[];
      readonly signer: string;
      /** Seconds since 1970 until when that holds. */
      readonly until: number;
    }
  | { readonly isTrusted: false; readonly why: string };

/** Whether a function may run here, by the envelopes that came with it. */
export function judgeFunction(
  id: string,
  envelopes: readonly string[],
  trust: Trust,
  now: number,
): FunctionVerdict {
  const no = (why: string): FunctionVerdict => ({ isTrusted: false, why });
  if (trust.deny.has(id)) return no("its id is denied in trust.toml");
  if (envelopes.length === 0) return no("nobody has signed it");
  let why = "no signature is by a key in trust.toml";
  const names: string[] = [];
  let signer = "";
  let until = 0;
  for (const text of envelopes) {
    const parsed = parseEnvelope(text);
    const statement = parsed.ok ? functionStatement(parsed.envelope) : undefined;
    if (!parsed.ok || statement?.function !== id) {
      why = "a signature is malformed, or of another function";
      continue;
    }
    if (statement.created > now + SKEW_S) why = "it was signed in the future";
    else if (statement.expires !== undefined && statement.expires <= now) why = "its signature has expired";
    else {
      const ref = statement.name.includes("@") ? statement.name : `${statement.name}@all`;
      for (const key of signersOf(parsed.envelope, trust)) {
        const bad = unusable(key, now);
        if (bad !== undefined) why = bad;
        else if (!key.signs({ id, ref })) why = `the key ${key.name} is not trusted for ${statement.name}`;
        else {
          names.push(ref);
          signer ||= key.name;
          // Whatever ends first: then it is judged anew.
          const ends = Math.min(statement.expires ?? Infinity, key.notAfter ?? Infinity);
          until = until === 0 ? ends : Math.min(until, ends);
        }
      }
    }
  }
  return names.length === 0 ? no(why) : { isTrusted: true, names, signer, until };
}

/** A call as it came. */
export interface Call {
  readonly task: string;
  readonly endpoint: string;
  readonly function: string;
  /** The seal over the arguments as they came, computed here. */
  readonly arguments: string;
  readonly codec: number;
  readonly options: string;
  /** The names that were signed of its function; none where it was not judged. */
  readonly names: readonly string[];
}

export type CallVerdict =
  | { readonly isTrusted: true; readonly statement: InvocationStatement }
  | { readonly isTrusted: false; readonly why: string };

/** Whether a call is as somebody signed it who may. That it is begun once is asked elsewhere. */
export function judgeCall(
  call: Call,
  invocation: string | undefined,
  trust: Trust,
  now: number,
): CallVerdict {
  const no = (why: string): CallVerdict => ({ isTrusted: false, why });
  if (invocation === undefined) return no("nobody has signed this call");
  const parsed = parseEnvelope(invocation);
  const statement = parsed.ok ? invocationStatement(parsed.envelope) : undefined;
  if (!parsed.ok || statement === undefined) return no("its signature is malformed");
  for (const field of ["task", "endpoint", "function", "arguments", "codec", "options"] as const)
    if (statement[field] !== call[field]) return no(`its ${field} is not what was signed`);
  if (statement.expires <= now) return no("its signature has expired");
  if (statement.expires > now + MAX_INVOCATION_S + SKEW_S)
    return no(`its signature is good for more than ${MAX_INVOCATION_S / 86_400} days`);
  let why = "its signature is not by a key in trust.toml";
  for (const key of signersOf(parsed.envelope, trust)) {
    if (key.keyId !== statement.key) continue;
    const bad = unusable(key, now);
    if (bad !== undefined) why = bad;
    else if ([undefined, ...call.names].some((ref) => key.calls({ id: call.function, ref })))
      return { isTrusted: true, statement };
    else why = `the key ${key.name} may not call this function`;
  }
  return no(why);
}

function signersOf(envelope: Envelope, trust: Trust): TrustedKey[] {
  return trust.keys.filter((key) => isSignedBy(envelope, key.publicKey));
}

function unusable(key: TrustedKey, now: number): string | undefined {
  if (key.isRevoked) return `the key ${key.name} is revoked`;
  if (key.notBefore !== undefined && now < key.notBefore) return `the key ${key.name} is not valid yet`;
  if (key.notAfter !== undefined && now >= key.notAfter) return `the key ${key.name} has expired`;
  return undefined;
}
