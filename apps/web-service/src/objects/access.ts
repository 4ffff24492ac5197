/**
 * Who may do what with which object. A route about objects learns its owner here and nowhere else, by saying what it
 * is about to do: so none can forget to ask what a token allows.
 */
import { FarloomError } from "@farloom/protocol";
import type { FastifyRequest } from "fastify";
import { principalOf } from "../http/policy.js";
import type { ObjectGrant, ObjectMethod } from "../identity/principal.js";
import { shown } from "./names.js";

/** `key` is the key, for `list` the beginning of keys. */
export interface Target {
  readonly bucket: string;
  readonly key: string;
}

/** The owner in whose name it is done. @throws FarloomError OBJECT_ACCESS_DENIED */
export function ownerFor(request: FastifyRequest, method: ObjectMethod, ...targets: Target[]): string {
  const grant = request.objectGrant;
  // The route's policy has asked for the scope already.
  if (!grant) return principalOf(request).ownerId;
  const denied = targets.find((target) => !allows(grant, method, target));
  if (denied) throw new FarloomError("OBJECT_ACCESS_DENIED", { method, name: shown(denied) });
  return grant.ownerId;
}

/** Whether the grant covers it. */
export function allows(grant: ObjectGrant, method: ObjectMethod, { bucket, key }: Target): boolean {
  if (!grant.methods.has(method) || bucket !== grant.bucket) return false;
  return grant.isExact ? key === grant.prefix : key.startsWith(grant.prefix);
}
