/**
 * Signed statements: DSSE envelopes (github.com/secure-systems-lab/dsse, version 1.0.2) under Ed25519 keys (P37).
 *
 *   D1  What is signed is PAE(type, payload), so that a payload of one type is never one of another.
 *   D2  An envelope has one form: canonical JSON of exactly its three fields, canonical base64, no field twice. What
 *       parses otherwise elsewhere is no envelope here.
 *   D3  The key id in an envelope is a hint, as DSSE says: every signature is tried with every key that is asked about.
 */
import { createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { canonicalJson } from "../functions/definition.js";

/** The whole envelope as text. A statement has below one KiB. */
export const MAX_ENVELOPE_BYTES = 4_096;
/** Signatures in one envelope: each costs whoever checks it 0.1 ms for every key. */
export const MAX_SIGNATURES = 4;

export interface EnvelopeSignature {
  readonly keyid: string;
  /** 64 bytes. */
  readonly sig: Buffer;
}

export interface Envelope {
  readonly payloadType: string;
  readonly payload: Buffer;
  readonly signatures: readonly EnvelopeSignature[];
}

/** The bytes that are signed: `DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload`, lengths in bytes and decimal. */
export function preAuthEncoding(payloadType: string, payload: Buffer): Buffer {
  const type = Buffer.from(payloadType, "utf8");
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${type.length} `),
    type,
    Buffer.from(` ${payload.length} `),
    payload,
  ]);
}

/** Signs a payload; the envelope as it is kept and sent. */
export function signEnvelope(
  payloadType: string,
  payload: Buffer,
  signer: { readonly key: KeyObject; readonly keyId: string },
): string {
  const sig = sign(null, preAuthEncoding(payloadType, payload), signer.key).toString("base64");
  const signatures = [{ keyid: signer.keyId, sig }];
  return canonicalJson({ payload: payload.toString("base64"), payloadType, signatures });
}

/** The envelope that the text is, or why it is none. */
export function parseEnvelope(
  text: string,
): { readonly ok: true; readonly envelope: Envelope } | { readonly ok: false; readonly why: string } {
  const no = (why: string) => ({ ok: false, why }) as const;
  if (text.length > MAX_ENVELOPE_BYTES) return no(`it has more than ${MAX_ENVELOPE_BYTES} characters`);
  // Before JSON.parse: so many levels are none of ours, and a stranger's could be thousands.
  if (!/^[\x20-\x7e]+$/.test(text)) return no("it is not printable ASCII");
  let value: unknown;
  try {
    value = JSON.parse(text);
    if (canonicalJson(value) !== text) return no("it is not canonical JSON");
  } catch {
    return no("it is not JSON");
  }
  if (!hasExactly(value, ["payload", "payloadType", "signatures"]))
    return no("it has other fields than a DSSE envelope");
  const { payload, payloadType, signatures } = value;
  const bytes = base64(payload);
  if (bytes === undefined || typeof payloadType !== "string") return no("its payload is not base64");
  if (!Array.isArray(signatures) || signatures.length < 1 || signatures.length > MAX_SIGNATURES)
    return no(`it has not 1 to ${MAX_SIGNATURES} signatures`);
  const read: EnvelopeSignature[] = [];
  for (const one of signatures as unknown[]) {
    if (!hasExactly(one, ["keyid", "sig"]) || typeof one.keyid !== "string")
      return no("a signature has other fields than keyid and sig");
    const sig = base64(one.sig);
    if (sig?.length !== 64) return no("a signature is not 64 bytes in base64");
    read.push({ keyid: one.keyid, sig });
  }
  return { ok: true, envelope: { payloadType, payload: bytes, signatures: read } };
}

/** Whether one of the envelope's signatures is that of this key. */
export function isSignedBy(envelope: Envelope, publicKey: KeyObject): boolean {
  const message = preAuthEncoding(envelope.payloadType, envelope.payload);
  return envelope.signatures.some(({ sig }) => verify(null, message, publicKey, sig));
}

/** A raw Ed25519 public key, ready to check with. */
export function publicKeyObject(raw: Buffer): KeyObject {
  return createPublicKey({
    key: { kty: "OKP", crv: "Ed25519", x: raw.toString("base64url") },
    format: "jwk",
  });
}

/** Whether the value is a map of exactly these fields. */
export function hasExactly<K extends string>(
  value: unknown,
  fields: readonly K[],
): value is Record<K, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const names = Object.keys(value);
  return names.length === fields.length && fields.every((field) => Object.hasOwn(value, field));
}

function base64(text: unknown): Buffer | undefined {
  if (typeof text !== "string") return undefined;
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}
