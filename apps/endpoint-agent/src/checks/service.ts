/** Whether the service can be reached from here: by a request, by the link's own kind of connection, and by the clock. */
import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { limits } from "@farloom/protocol";
import { maskedUrl, proxyAgentOf, proxyOf } from "../proxy.js";
import type { Check } from "./check.js";

/** Long enough for a proxy that looks names up; a firewall that drops packets never answers. */
const ANSWER_MS = 8_000;
/** Beyond this, times in logs of different machines do not line up. */
const MOST_SKEW_MS = 5_000;

/** Three checks; the later ones are skipped where the first fails. */
export async function checkService(serviceUrl: string): Promise<Check[]> {
  const proxy = proxyOf(serviceUrl);
  const way = proxy === undefined ? "directly" : `through the proxy ${maskedUrl(proxy)}`;
  const url = new URL("/health/ready", serviceUrl);
  const startMs = performance.now();
  let answer: IncomingMessage;
  try {
    answer = await ask(url);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const detail = `${serviceUrl} cannot be reached ${way}: ${message || code}`;
    const cure = cureOf(code ?? "", url, proxy !== undefined);
    return [{ name: "service", state: "failed", detail, cure }, ...AFTER_FAILURE];
  }
  const latencyMs = Math.round(performance.now() - startMs);
  const status = answer.statusCode ?? 0;
  const facts = { url: serviceUrl, latencyMs, ...(proxy === undefined ? {} : { proxy: maskedUrl(proxy) }) };
  if (status === 407 || (proxy !== undefined && status === 403)) {
    const detail = `the proxy ${maskedUrl(proxy ?? "")} answered ${status} for ${serviceUrl}`;
    const cure =
      status === 407
        ? "it wants a name and a password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
        : `it lets nothing through to ${url.host}: ask the site to allow it, or use another proxy`;
    return [{ name: "service", state: "failed", detail, cure, facts }, ...AFTER_FAILURE];
  }
  if (status !== 200) {
    const detail = `${serviceUrl} answered ${status} ${way}, in ${latencyMs} ms`;
    const cure =
      status === 503 ? "it is not ready: wait a moment" : "is this the address of a Farloom service?";
    const first: Check = {
      name: "service",
      state: status === 503 ? "warning" : "failed",
      detail,
      cure,
      facts,
    };
    return first.state === "failed" ? [first, ...AFTER_FAILURE] : [first, await checkLink(serviceUrl)];
  }
  const detail = `${serviceUrl} is ready, ${way}, in ${latencyMs} ms`;
  return [
    { name: "service", state: "ok", detail, facts },
    await checkLink(serviceUrl),
    clockCheck(answer.headers.date, latencyMs, Date.now()),
  ];
}

const AFTER_FAILURE: readonly Check[] = [
  { name: "link", state: "skip", detail: "the service cannot be reached" },
  { name: "clock", state: "skip", detail: "the service cannot be reached" },
];

/** How far this machine's clock is from a Date header that came after `latencyMs`. Pure. */
export function clockCheck(date: string | undefined, latencyMs: number, nowMs: number): Check {
  if (date === undefined || Number.isNaN(Date.parse(date)))
    return { name: "clock", state: "skip", detail: "the service does not tell its time" };
  // The header counts whole seconds: on average it is half of one behind.
  const skewMs = Math.round(nowMs - latencyMs / 2 - (Date.parse(date) + 500));
  const facts = { skewMs };
  if (Math.abs(skewMs) < MOST_SKEW_MS)
    return { name: "clock", state: "ok", detail: "agrees with the service's", facts };
  const detail = `${(Math.abs(skewMs) / 1000).toFixed(0)} s ${skewMs > 0 ? "ahead of" : "behind"} the service's`;
  const cure = "times in logs will not line up: set this machine's clock by NTP, or ask its admin to";
  return { name: "clock", state: "warning", detail, cure, facts };
}

/**
 * A WebSocket's request without a token: the service refuses it as unauthenticated, which only happens where the
 * request to upgrade arrived as one.
 */
async function checkLink(serviceUrl: string): Promise<Check> {
  const upgrade = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "ZmFybG9vbS1jaGVjay0wMA==",
    "sec-websocket-protocol": limits.SUBPROTOCOL,
  };
  try {
    const { statusCode } = await ask(new URL(limits.AGENT_LINK_PATH, serviceUrl), upgrade);
    if (statusCode === 401 || statusCode === 403)
      return { name: "link", state: "ok", detail: "WebSockets pass" };
    const detail = `a WebSocket was answered ${statusCode}`;
    const cure =
      "something on the way does not pass WebSockets on: the reverse proxy before the service must (Upgrade, Connection)";
    return { name: "link", state: "warning", detail, cure };
  } catch (error) {
    const detail = `a WebSocket is cut off: ${(error as Error).message}`;
    const cure = "something on the way ends WebSockets: use HTTPS (port 443), which nobody can look into";
    return { name: "link", state: "warning", detail, cure };
  }
}

function ask(url: URL, headers: Readonly<Record<string, string>> = {}): Promise<IncomingMessage> {
  const agent = proxyAgentOf(url);
  const options: RequestOptions = { headers, timeout: ANSWER_MS, ...(agent ? { agent } : {}) };
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? httpsRequest : httpRequest)(url, options);
    const timer = setTimeout(() => {
      request.destroy(
        Object.assign(new Error(`no answer within ${ANSWER_MS / 1000} s`), { code: "ETIMEDOUT" }),
      );
    }, ANSWER_MS);
    const settle = (answer: IncomingMessage): void => {
      clearTimeout(timer);
      answer.resume();
      resolve(answer);
    };
    request.once("response", settle);
    request.once("upgrade", (answer, socket) => {
      socket.destroy();
      settle(answer);
    });
    request.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    request.end();
  });
}

/** What to do about a failed connection, by the error's code. */
function cureOf(code: string, url: URL, isProxied: boolean): string {
  if (isProxied)
    return "is the proxy's address right? HTTPS_PROXY and HTTP_PROXY name it, NO_PROXY says what goes directly";
  if (code === "ENOTFOUND" || code === "EAI_AGAIN")
    return "this machine does not know the name: check the address; where only a proxy leads outside, set HTTPS_PROXY=http://HOST:PORT";
  if (code === "ECONNREFUSED")
    return `nothing listens at ${url.host}: is the service running, and is it the right port?`;
  if (/CERT|SSL|TLS|SELF_SIGNED|UNABLE_TO/.test(code))
    return "its certificate is not trusted here: name the authority's file in NODE_EXTRA_CA_CERTS=/path/ca.pem";
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  if (port !== "443")
    return `a firewall may let only port 443 out, and this is ${port}: put the service behind HTTPS, or set HTTPS_PROXY=http://HOST:PORT`;
  return "a firewall may let nothing out: set HTTPS_PROXY=http://HOST:PORT, or use a login node that may";
}
