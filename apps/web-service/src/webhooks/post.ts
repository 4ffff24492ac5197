/**
 * One POST to an address that was looked at before. What the answer says counts by its status alone; its body is read up to
 * a bound, so that the other side is not cut off, and kept nowhere.
 *
 *   P1  The connection goes to a pinned address, whatever the name means by now. TLS and Host keep the name.
 *   P2  No redirect is followed, no proxy of the environment used, no cookie kept, no connection or session reused.
 *   P3  All of it, from the question for the name to the end of the answer, takes TIMEOUT_MS at most.
 */
import {
  Agent as HttpAgent,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
} from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { LookupFunction } from "node:net";
import { rootCertificates, type TLSSocket } from "node:tls";
import type { WebhookSettings } from "./settings.js";
import { type Address, checkUrl, literalOf, pin, portOf } from "./target.js";

export const TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/** What became of a try. `error` is empty where it was delivered; docs/webhooks.md has the list. */
export interface Tried {
  readonly error:
    | ""
    | "url_refused"
    | "address_refused"
    | "connection"
    | "tls"
    | "timeout"
    | "redirect"
    | "status";
  readonly status: number | undefined;
  readonly ms: number;
}

export interface Post {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Resolves, whatever happens. `signal`: the service is stopping. */
export async function post(what: Post, settings: WebhookSettings, signal: AbortSignal): Promise<Tried> {
  const beganMs = performance.now();
  const said = (error: Tried["error"], status?: number): Tried => {
    return { error, status, ms: Math.round(performance.now() - beganMs) };
  };
  // The operator may have narrowed what is allowed since it was registered.
  const checked = checkUrl(what.url, settings);
  if ("wrong" in checked) return said("url_refused");
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]); // P3
  const pinned = await pin(checked.url, settings, deadline);
  if (deadline.aborted) return said("timeout");
  if (pinned.length === 0) return said("address_refused");
  const call = { ...what, url: checked.url, pinned, ca: settings.ca };
  const answer = await exchange(call, deadline);
  if (typeof answer === "string") return said(deadline.aborted ? "timeout" : answer);
  if (answer >= 200 && answer < 300) return said("", answer);
  return said(answer >= 300 && answer < 400 ? "redirect" : "status", answer);
}

interface Call extends Omit<Post, "url"> {
  readonly url: URL;
  readonly pinned: readonly Address[];
  readonly ca: string | undefined;
}

/** The answer's status, or where it failed. */
function exchange(
  { url, headers, body, pinned, ca }: Call,
  signal: AbortSignal,
): Promise<number | "connection" | "tls"> {
  const isTls = url.protocol === "https:";
  const literal = literalOf(url);
  const options: RequestOptions & { servername?: string; ca?: string[] } = {
    method: "POST",
    host: literal ?? url.hostname,
    port: portOf(url),
    path: url.pathname + url.search,
    headers: {
      host: url.host,
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      "user-agent": "farloom-webhooks/1",
      ...headers,
    },
    lookup: lookupOf(pinned), // P1
    signal,
    maxHeaderSize: 16 * 1024,
    // P2
    agent: isTls
      ? new HttpsAgent({ keepAlive: false, maxCachedSessions: 0 })
      : new HttpAgent({ keepAlive: false }),
    ...(isTls && literal === undefined ? { servername: url.hostname } : {}),
    ...(ca === undefined ? {} : { ca: [...rootCertificates, ca] }),
  };
  return new Promise((resolve) => {
    let isSecuring = false;
    const request = (isTls ? httpsRequest : httpRequest)(options, (answer) => {
      drained(answer).then(() => resolve(answer.statusCode ?? 0));
    });
    request.once("socket", (socket) => {
      socket.once("connect", () => {
        isSecuring = isTls;
      });
      (socket as TLSSocket).once("secureConnect", () => {
        isSecuring = false;
      });
    });
    request.on("error", () => resolve(isSecuring ? "tls" : "connection"));
    request.end(body);
  });
}

/** What Node asks for a name's addresses is told those that were looked at, and nothing else. */
function lookupOf(pinned: readonly Address[]): LookupFunction {
  return (_name, options, callback) => {
    if (options.all) callback(null, [...pinned]);
    else callback(null, pinned[0]!.address, pinned[0]!.family);
  };
}

/** Resolves when the answer's body is over, too long, or cut. */
function drained(answer: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytes = 0;
    answer.on("data", (piece: Buffer) => {
      bytes += piece.length;
      if (bytes > MAX_ANSWER_BYTES) answer.destroy();
    });
    answer.on("error", () => {});
    answer.once("close", () => resolve());
  });
}
