/**
 * The way out of a site that lets connections pass through a proxy alone: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and
 * NO_PROXY, as curl reads them. Everything goes through CONNECT, so that the proxy carries bytes and reads none, and the
 * link (a WebSocket) passes where a request does.
 *
 * A service on loopback is never asked for through a proxy: the proxy's loopback is another one, and an SSH tunnel ends
 * on this.
 */
import type { Agent } from "node:http";
import { HttpsProxyAgent } from "https-proxy-agent";
import { getProxyForUrl } from "proxy-from-env";

/** One for each proxy; the environment names one or two. */
const agents = new Map<string, Agent>();

/** The agent that carries requests and links to this URL, or undefined where they go directly. */
export function proxyAgentOf(url: string | URL): Agent | undefined {
  const proxy = proxyOf(url);
  if (proxy === undefined) return undefined;
  let agent = agents.get(proxy);
  if (agent === undefined) {
    agent = new HttpsProxyAgent(proxy);
    agents.set(proxy, agent);
  }
  return agent;
}

/** The URL of the proxy that the environment names for this URL, or undefined. It may hold a password: see `maskedUrl`. */
export function proxyOf(url: string | URL): string | undefined {
  const asked = new URL(url);
  if (/^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(asked.hostname)) return undefined;
  const proxy = getProxyForUrl(asked.href.replace(/^ws/, "http"));
  if (proxy === "") return undefined;
  // `proxy:3128`, without a scheme, is a proxy that is spoken to in the clear, whatever is asked for through it.
  return PROXY_VARIABLES.some((name) => process.env[name] === proxy)
    ? proxy
    : proxy.replace(/^https:/, "http:");
}

const PROXY_VARIABLES = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"].flatMap((name) => [
  name,
  name.toLowerCase(),
]);

/** A URL for people and logs: without name and password. */
export function maskedUrl(text: string): string {
  if (!URL.canParse(text)) return text;
  const url = new URL(text);
  if (url.username === "" && url.password === "") return text;
  url.username = "***";
  url.password = "";
  return url.href;
}
