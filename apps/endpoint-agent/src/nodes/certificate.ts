/**
 * The certificate under which the agent listens for its nodes: self-signed, P-256, made by the agent itself. Nobody
 * looks at its names and dates: a node knows its SHA-256 from the block's parameters, and takes no other.
 *
 * It is kept with its key in the state folder, as the nodes of a block outlive the agent and must know it again.
 */
import { createHash, generateKeyPairSync, randomBytes, sign, X509Certificate } from "node:crypto";
import { chmodSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";

export interface Certificate {
  readonly keyPem: string;
  readonly certPem: string;
  /** SHA-256 of the certificate's bytes, in hex. */
  readonly fingerprint: string;
}

/** The one kept at `path`, or a new one. Throws where others can read the file. */
export function loadCertificate(path: string): Certificate {
  try {
    if ((statSync(path).mode & 0o077) !== 0) {
      throw new Error(`others can read ${path}; run: chmod 600 '${path}'`);
    }
    const { keyPem, certPem } = JSON.parse(readFileSync(path, "utf8")) as Certificate;
    return { keyPem, certPem, fingerprint: fingerprintOf(new X509Certificate(certPem).raw) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  const made = makeCertificate();
  const aside = `${path}.new`;
  writeFileSync(aside, JSON.stringify({ keyPem: made.keyPem, certPem: made.certPem }), {
    mode: 0o600,
    flush: true,
  });
  chmodSync(aside, 0o600);
  renameSync(aside, path);
  return made;
}

export function makeCertificate(): Certificate {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const name = sequence(
    tlv(0x31, sequence(oid(COMMON_NAME), tlv(0x0c, Buffer.from("farloom endpoint agent")))),
  );
  const body = sequence(
    tlv(0xa0, integer(Buffer.from([2]))),
    integer(Buffer.concat([Buffer.from([1]), randomBytes(15)])),
    sequence(oid(ECDSA_WITH_SHA256)),
    name,
    // As long as can be said: what is pinned needs no end.
    sequence(tlv(0x18, Buffer.from("20200101000000Z")), tlv(0x18, Buffer.from("99991231235959Z"))),
    name,
    publicKey.export({ type: "spki", format: "der" }),
  );
  const signature = sign("sha256", body, privateKey);
  const der = sequence(
    body,
    sequence(oid(ECDSA_WITH_SHA256)),
    tlv(0x03, Buffer.concat([Buffer.from([0]), signature])),
  );
  const lines = der.toString("base64").replace(/.{64}/g, "$&\n");
  return {
    keyPem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    certPem: `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`,
    fingerprint: fingerprintOf(der),
  };
}

export function fingerprintOf(der: Buffer): string {
  return createHash("sha256").update(der).digest("hex");
}

const ECDSA_WITH_SHA256 = "2a8648ce3d040302";
const COMMON_NAME = "550403";

/** Tag, length, value, as DER has it. */
function tlv(tag: number, value: Buffer): Buffer {
  if (value.length < 0x80) return Buffer.concat([Buffer.from([tag, value.length]), value]);
  const length = Buffer.from(value.length.toString(16).padStart(value.length > 0xff ? 4 : 2, "0"), "hex");
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length]), length, value]);
}

function sequence(...parts: Buffer[]): Buffer {
  return tlv(0x30, Buffer.concat(parts));
}

function integer(bytes: Buffer): Buffer {
  return tlv(0x02, bytes);
}

function oid(hex: string): Buffer {
  return tlv(0x06, Buffer.from(hex, "hex"));
}
