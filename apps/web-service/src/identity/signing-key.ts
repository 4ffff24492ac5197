/**
 * The Ed25519 key that signs tokens until there are others (key-ring.ts), and under which those are sealed: a PKCS #8 PEM
 * file, mode 0600, made at the first start. Replicas share one through FARLOOM_SIGNING_KEY_FILE.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { calculateJwkThumbprint } from "jose";
import { ConfigError } from "../config.js";
import { makeKeyFile } from "../support/key-file.js";

export interface SigningKey {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** Names the key in a token's header: the RFC 7638 thumbprint. */
  readonly kid: string;
}

/** Reads the key, or makes one where `file` is not given and the state folder has none. */
export async function loadSigningKey(stateDir: string, file: string | undefined): Promise<SigningKey> {
  const path = file ?? join(stateDir, "signing-key.pem");
  let pem = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" && file === undefined) return undefined;
    throw new ConfigError(`the signing key ${path} cannot be read: ${error.message}`);
  });
  if (pem === undefined) {
    const { privateKey } = generateKeyPairSync("ed25519");
    await makeKeyFile(path, privateKey.export({ format: "pem", type: "pkcs8" }).toString());
    pem = await readFile(path, "utf8");
  }
  const privateKey = parse(pem, path);
  const publicKey = createPublicKey(privateKey);
  return { privateKey, publicKey, kid: await calculateJwkThumbprint(publicKey.export({ format: "jwk" })) };
}

function parse(pem: string, path: string): KeyObject {
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType === "ed25519") return key;
  } catch {
    // Told below; the parser's own words could quote the key.
  }
  throw new ConfigError(`the signing key ${path} is not an Ed25519 private key in PKCS #8 PEM form`);
}
