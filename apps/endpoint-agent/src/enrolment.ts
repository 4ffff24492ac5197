/**
 * Enrolment: a one-time code becomes an identity. The key is made here and only its public half is told, so
 * there is no secret to copy about.
 */
import { existsSync } from "node:fs";
import { tellOfKey } from "./audit/life-entries.js";
import { httpJson } from "./http.js";
import { normaliseServiceUrl } from "./service-url.js";
import { type Identity, makeKey, readIdentity, saveIdentity } from "./state/identity.js";
import { openStateDir } from "./state/state-dir.js";

export interface EnrolOptions {
  /** `http(s)://host[:port]` of the web service. */
  readonly serviceUrl: string;
  /** From `farloom endpoint create`; good for one use. */
  readonly code: string;
  /** What the endpoint is to be called, where the code leaves that open. */
  readonly name?: string;
  readonly stateDir: string;
}

/**
 * Enrols the agent of `stateDir`. Throws HttpFailure where the service refuses, and Error where the folder
 * has an identity already: a second one would orphan the first one's tasks.
 */
export async function enroll(options: EnrolOptions): Promise<Identity> {
  const paths = openStateDir(options.stateDir);
  const before = readIdentity(paths);
  if (before !== undefined) {
    throw new Error(
      `${paths.root} is enrolled already, as endpoint ${before.name} (${before.endpointId}) of ${before.serviceUrl}: use another --state-dir`,
    );
  }
  const serviceUrl = normaliseServiceUrl(options.serviceUrl);
  const key = makeKey();
  key.save(paths.privateKey);
  const answer = await httpJson<{ endpointId: string; name: string; owner: string }>(
    new URL("/v1/endpoints/enroll", serviceUrl),
    {
      method: "POST",
      json: {
        code: options.code,
        publicKey: key.publicKey.toString("base64"),
        ...(options.name === undefined ? {} : { name: options.name }),
      },
    },
  );
  const identity: Identity = {
    serviceUrl,
    endpointId: answer.endpointId,
    name: answer.name,
    owner: answer.owner,
  };
  saveIdentity(paths, identity);
  const { endpointId, name, owner } = identity;
  const said = { what: "agent.enrolled", endpoint: endpointId, name, owner, service: serviceUrl };
  tellOfKey(paths, key.publicKey, said);
  return identity;
}

/** Whether the folder holds an identity. */
export function isEnrolled(stateDir: string): boolean {
  return existsSync(stateDir) && readIdentity(openStateDir(stateDir)) !== undefined;
}
