/**
 * Another key for an enrolled agent: the old one signs for the new one, and the new one for itself. The agent does not run
 * meanwhile; workers that outlive it know nothing of keys.
 *
 *   1. The new key is on disk before the service hears of it, and takes the old one's place once the service has it. Where
 *      this process dies in between, the next run finds out which of the two the service knows, and goes on from there.
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign } from "node:crypto";
import { existsSync, readFileSync, renameSync } from "node:fs";
import { tellOfKey } from "./audit/life-entries.js";
import { HttpFailure, httpJson } from "./http.js";
import { SessionTokens } from "./link/session-token.js";
import { type Identity, loadIdentity, makeKey, publicKeyOf } from "./state/identity.js";
import { acquireLock } from "./state/lock.js";
import { openStateDir, type StatePaths } from "./state/state-dir.js";

/** Rejects with HttpFailure where the service refuses, and with Error where an agent runs on the folder or none is enrolled. */
export async function rekey(stateDir: string): Promise<Identity> {
  const paths = openStateDir(stateDir);
  const { identity, key } = loadIdentity(paths);
  const lock = acquireLock(paths.lock);
  try {
    const next = `${paths.privateKey}.next`;
    if (!existsSync(next)) makeKey().save(next);
    else if (await isKnown(identity, readKey(next))) {
      return taken(paths, next, identity);
    }
    await handOn(identity, key, readKey(next));
    return taken(paths, next, identity);
  } finally {
    lock.release();
  }
}

/** The service knows the new key: it takes the old one's place. */
function taken(paths: StatePaths, next: string, identity: Identity): Identity {
  renameSync(next, paths.privateKey);
  const key = publicKeyOf(readKey(paths.privateKey));
  tellOfKey(paths, key, { what: "agent.rekeyed", endpoint: identity.endpointId });
  return identity;
}

async function handOn(
  { serviceUrl, endpointId }: Identity,
  oldKey: KeyObject,
  newKey: KeyObject,
): Promise<void> {
  const base = `/v1/endpoints/${endpointId}`;
  const { nonce } = await httpJson<{ nonce: string }>(new URL(`${base}/challenge`, serviceUrl), {
    method: "POST",
    json: {},
  });
  const publicKey = String(createPublicKey(newKey).export({ format: "jwk" }).x);
  const { host } = new URL(serviceUrl);
  const text = Buffer.from(`farloom-rekey-v1\n${host}\n${endpointId}\n${nonce}\n${publicKey}`);
  const signed = (key: KeyObject): string => sign(null, text, key).toString("base64url");
  await httpJson(new URL(`${base}/rekey`, serviceUrl), {
    method: "POST",
    json: { nonce, publicKey, signature: signed(oldKey), newSignature: signed(newKey) },
  });
}

/** Whether the service knows this key as the endpoint's (1). */
async function isKnown({ serviceUrl, endpointId }: Identity, key: KeyObject): Promise<boolean> {
  try {
    await new SessionTokens(serviceUrl, endpointId, key).fresh(new AbortController().signal);
    return true;
  } catch (error) {
    if (error instanceof HttpFailure && error.code === "SIGNATURE_INVALID") return false;
    throw error;
  }
}

function readKey(path: string): KeyObject {
  return createPrivateKey(readFileSync(path));
}
