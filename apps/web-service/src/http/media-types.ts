/**
 * What replies are sent as, said in their schemas for the API page (docs.ts): JSON where they say nothing. Nothing else
 * reads it.
 */
import { type TSchema, Type } from "typebox";

export const MEDIA_TYPES = "x-media-types";

/** A reply that is no JSON, or not only: its media types, and the shape that it has there. */
export function sentAs<S extends TSchema>(types: readonly string[], schema: S): S {
  return { ...schema, [MEDIA_TYPES]: types };
}

/** Bytes or text as they are. */
export function sentRaw(...types: string[]) {
  return sentAs(types, Type.Unknown());
}
