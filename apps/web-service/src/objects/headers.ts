/** What an upload's headers say of the object, and how that is told again. */
import type { IncomingHttpHeaders } from "node:http";
import { FarloomError, limits } from "@farloom/protocol";

const META = "x-farloom-meta-";
const MAX_CONTENT_TYPE_CHARS = 255;

/** @throws FarloomError REQUEST_INVALID */
export function metadataOf(headers: IncomingHttpHeaders): Record<string, string> {
  const metadata: Record<string, string> = {};
  let sizeBytes = 0;
  for (const [header, value] of Object.entries(headers)) {
    if (!header.startsWith(META) || typeof value !== "string") continue;
    const name = header.slice(META.length);
    sizeBytes += name.length + value.length;
    if (!/^[a-z0-9][a-z0-9_-]{0,63}$/.test(name))
      throw invalid(`the header ${header.slice(0, 100)} names no metadata`);
    if (!/^[\x20-\x7e]*$/.test(value))
      throw invalid(`the header ${header} is not plain ASCII; percent-encode it`);
    metadata[name] = value;
  }
  if (sizeBytes > limits.MAX_OBJECT_METADATA_BYTES)
    throw invalid(`the metadata has ${sizeBytes} bytes, at most ${limits.MAX_OBJECT_METADATA_BYTES}`);
  return metadata;
}

export function metadataHeaders(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).map(([name, value]) => [META + name, value]));
}

/** @throws FarloomError REQUEST_INVALID */
export function contentTypeOf(headers: IncomingHttpHeaders): string {
  const type = headers["content-type"] ?? "application/octet-stream";
  if (type.length > MAX_CONTENT_TYPE_CHARS || !/^[\x20-\x7e]+$/.test(type))
    throw invalid(`Content-Type is no media type of at most ${MAX_CONTENT_TYPE_CHARS} characters`);
  return type;
}

/** The announced SHA-256. @throws FarloomError REQUEST_INVALID */
export function digestOf(headers: IncomingHttpHeaders): string | undefined {
  const digest = headers["content-sha256"];
  if (digest === undefined) return undefined;
  if (typeof digest !== "string" || !/^[0-9a-fA-F]{64}$/.test(digest))
    throw invalid("Content-SHA256 is not 64 hexadecimal digits");
  return digest.toLowerCase();
}

function invalid(detail: string): FarloomError {
  return new FarloomError("REQUEST_INVALID", { detail });
}
