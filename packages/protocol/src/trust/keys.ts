/**
 * Keys that sign functions and invocations: Ed25519. The public one is a line, `ed25519:BASE64 comment`, to be mailed and
 * pasted; the private one a PKCS#8 file, encrypted where there is a passphrase.
 */
import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto";

/** A public key as its line tells it. */
export interface PublicSignKey {
  /** 32 bytes. */
  readonly raw: Buffer;
  /** The first 16 hexadecimal digits of the SHA-256 of the raw key. */
  readonly keyId: string;
  readonly comment: string;
}

/** A private key, and what envelopes call it. */
export interface SignKey {
  readonly key: KeyObject;
  readonly keyId: string;
  /** Of its public half, 32 bytes. */
  readonly raw: Buffer;
}

/** y of the points of small order, low to high byte, without the sign of x: under such a key anything is signed. */
const SMALL_ORDER = [
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  `ec${"ff".repeat(30)}7f`,
];
const MAX_COMMENT_CHARS = 100;

/** What a key is called in envelopes and logs. */
export function signKeyId(raw: Buffer): string {
  return createHash("sha256").update(raw).digest("hex").slice(0, 16);
}

/** The key that a line is, or why it is none. */
export function parsePublicKey(line: string): PublicSignKey | { readonly why: string } {
  const match = /^ed25519:([A-Za-z0-9+/]{43}=)(?:[ \t]+([\x20-\x7e]*))?$/.exec(line.trim());
  if (!match) return { why: "a public key is a line of the form ed25519:BASE64 comment" };
  const raw = Buffer.from(match[1]!, "base64");
  if (raw.toString("base64") !== match[1]) return { why: "the key is not canonical base64" };
  const y = Buffer.from(raw);
  y[31]! &= 0x7f;
  // y is below p = 2^255 - 19: above, the same point has a second name.
  if (y[31] === 0x7f && y[0]! >= 0xed && y.subarray(1, 31).every((byte) => byte === 0xff))
    return { why: "the key is not a canonical point" };
  if (SMALL_ORDER.includes(y.toString("hex"))) return { why: "the key is a point of small order" };
  return { raw, keyId: signKeyId(raw), comment: (match[2] ?? "").slice(0, MAX_COMMENT_CHARS).trim() };
}

/** The line that tells a public key. */
export function publicKeyLine(raw: Buffer, comment: string): string {
  return `ed25519:${raw.toString("base64")}${comment === "" ? "" : ` ${comment}`}`;
}

/** A new private key. */
export function makeSignKey(): SignKey {
  return signKeyOf(generateKeyPairSync("ed25519").privateKey);
}

/** The text of a private key's file; encrypted (PKCS#8, AES-256) where there is a passphrase. */
export function privateKeyText({ key }: SignKey, passphrase?: string): string {
  const protection = passphrase ? { cipher: "aes-256-cbc", passphrase } : {};
  return key.export({ type: "pkcs8", format: "pem", ...protection }).toString();
}

/** Whether a private key's text needs a passphrase. */
export function isEncryptedKey(text: string): boolean {
  return text.includes("BEGIN ENCRYPTED PRIVATE KEY");
}

/** The private key of a file's text. Throws an Error that says what is wrong with it. */
export function readSignKey(text: string, passphrase?: string): SignKey {
  if (isEncryptedKey(text) && !passphrase)
    throw new Error("the key is encrypted, and no passphrase was given");
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: text, format: "pem", ...(passphrase ? { passphrase } : {}) });
  } catch (error) {
    const what = isEncryptedKey(text)
      ? "the passphrase is wrong, or the file is damaged"
      : "it is no PEM file of a key";
    throw new Error(what, { cause: error });
  }
  if (key.asymmetricKeyType !== "ed25519") throw new Error("the key is not an Ed25519 key");
  return signKeyOf(key);
}

function signKeyOf(key: KeyObject): SignKey {
  const raw = Buffer.from(key.export({ format: "jwk" }).x as string, "base64url");
  return { key, keyId: signKeyId(raw), raw };
}
