/**
 * Signatures as Standard Webhooks has them (https://www.standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`.
 *
 * A secret is stored nowhere. It follows by HKDF from the service's signing key, the webhook's id and a random nonce in its
 * row; rotating is another nonce. So neither the database nor a copy of it can sign, and there is nothing to decrypt.
 */
import { createHmac, randomBytes } from "node:crypto";

/** KeyRing's `derive`. */
export type Derive = (purpose: string) => Buffer;

export const newNonce = (): Buffer => randomBytes(16);

function secretOf(derive: Derive, webhookId: string, nonce: Buffer): Buffer {
  return derive(`farloom webhook ${webhookId} ${nonce.toString("base64url")}`);
}

/** As its owner is shown it, once. */
export function shownSecret(derive: Derive, webhookId: string, nonce: Buffer): string {
  return `whsec_${secretOf(derive, webhookId, nonce).toString("base64")}`;
}

export interface Signed {
  readonly webhookId: string;
  /** The newest first; all of them sign. */
  readonly nonces: readonly Buffer[];
  readonly deliveryId: string;
  readonly body: string;
}

/** The three headers. `nowMs`: since 1970, by this machine's clock; receivers compare it with theirs. */
export function signatureHeaders(derive: Derive, signed: Signed, nowMs: number): Record<string, string> {
  const { webhookId, nonces, deliveryId, body } = signed;
  const timestamp = String(Math.floor(nowMs / 1000));
  const signatures = nonces.map((nonce) => {
    const mac = createHmac("sha256", secretOf(derive, webhookId, nonce));
    return `v1,${mac.update(`${deliveryId}.${timestamp}.${body}`).digest("base64")}`;
  });
  return {
    "webhook-id": deliveryId,
    "webhook-timestamp": timestamp,
    "webhook-signature": signatures.join(" "),
  };
}
