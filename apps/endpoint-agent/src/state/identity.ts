/**
 * Who the agent is: an Ed25519 key that never leaves this folder, and the endpoint that the service knows it
 * as. What it signs is named and bound to the service's host, so a signature is good for nothing else.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import type { StatePaths } from "./state-dir.js";

/** identity.json, as enrolment wrote it. */
export interface Identity {
  readonly serviceUrl: string;
  readonly endpointId: string;
  readonly name: string;
  readonly owner: string;
}

/** Makes a key pair; returns the raw public key (32 bytes) and a function that keeps the private one. */
export function makeKey(): { publicKey: Buffer; save(path: string): void } {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const raw = publicKeyOf(publicKey);
  const pem = privateKey.export({ format: "pem", type: "pkcs8" });
  return { publicKey: raw, save: (path) => writeWhole(path, pem.toString()) };
}

/** The 32 bytes of a key's public half. */
export function publicKeyOf(key: KeyObject): Buffer {
  const half = key.type === "private" ? createPublicKey(key) : key;
  return Buffer.from(half.export({ format: "jwk" }).x as string, "base64url");
}

export function saveIdentity(paths: StatePaths, identity: Identity): void {
  writeWhole(paths.identity, `${JSON.stringify(identity, null, 2)}\n`);
}

/** The identity and its key, or an error that says how to get one. */
export function loadIdentity(paths: StatePaths): { identity: Identity; key: KeyObject } {
  const identity = readIdentity(paths);
  if (identity === undefined) {
    throw new Error(
      `no endpoint is enrolled in ${paths.root}: run 'farloom endpoint enroll' with a code from 'farloom endpoint create NAME'`,
    );
  }
  return { identity, key: createPrivateKey(readFileSync(paths.privateKey)) };
}

/** identity.json, or undefined where there is none. */
export function readIdentity(paths: StatePaths): Identity | undefined {
  try {
    return JSON.parse(readFileSync(paths.identity, "utf8")) as Identity;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Error(`${paths.identity} cannot be read`, { cause: error });
  }
}

/** The signature over a challenge of the service at `serviceUrl`. */
export function signChallenge(key: KeyObject, serviceUrl: string, endpointId: string, nonce: string): Buffer {
  return sign(
    null,
    Buffer.from(`farloom-agent-v1\n${new URL(serviceUrl).host}\n${endpointId}\n${nonce}`),
    key,
  );
}

function writeWhole(path: string, text: string): void {
  const aside = `${path}.new`;
  writeFileSync(aside, text, { mode: 0o600, flush: true });
  chmodSync(aside, 0o600);
  renameSync(aside, path);
}
