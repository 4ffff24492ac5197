/**
 * What may be called: a URL by its look, and addresses by their kind. People write the URLs, and the service can reach what
 * they cannot, so an address counts as forbidden unless it is certainly a public one.
 *
 *   A1  Only global unicast is called: nothing of this machine, of its networks, of clouds' metadata, and no address that
 *       carries an IPv4 address in it, unless the operator named its network.
 *   A2  Of a name every address must be good, and what is called is one of those that were looked at, not the name again.
 */
import { Resolver } from "node:dns/promises";
import { isIP } from "node:net";
import ipaddr from "ipaddr.js";
import type { WebhookSettings } from "./settings.js";

export const MAX_URL_CHARS = 2_048;
/** Of a name with more, the first are called. */
const MAX_PINNED = 8;
/** Of one question to one server; two are asked, and the limit of the whole delivery ends it earlier. */
const DNS_TIMEOUT_MS = 2_000;

export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** The URL, or what is wrong with it, in words that go on after "The URL is not one that this service calls: ". */
export function checkUrl(text: string, settings: WebhookSettings): { url: URL } | { wrong: string } {
  if (text.length > MAX_URL_CHARS) return { wrong: `it has more than ${MAX_URL_CHARS} characters` };
  if (!URL.canParse(text)) return { wrong: "it is no URL" };
  // The parser makes 2130706433, 0x7f.1 and 127.1 into 127.0.0.1: what is checked is what is called.
  const url = new URL(text);
  const { protocol, hostname } = url;
  if (protocol !== "https:" && !(protocol === "http:" && settings.http)) return { wrong: "it is not https" };
  if (url.username !== "" || url.password !== "") return { wrong: "it has a user or a password in it" };
  if (url.hash !== "") return { wrong: "it has a fragment" };
  if (!settings.ports.includes(portOf(url))) return { wrong: `port ${portOf(url)} is not allowed` };
  if (hostname.endsWith(".")) return { wrong: "its host ends with a dot" };
  if (!isHostAllowed(hostname, settings.hosts)) return { wrong: "the operator does not allow its host" };
  const literal = literalOf(url);
  if (literal !== undefined && !isCallable(literal, settings.allow))
    return { wrong: "its address is not a public one" };
  return { url };
}

export function portOf(url: URL): number {
  if (url.port !== "") return Number(url.port);
  return url.protocol === "https:" ? 443 : 80;
}

/** The address where the host is one and not a name. */
export function literalOf({ hostname }: URL): string | undefined {
  const bare = hostname.replace(/^\[(.*)\]$/, "$1");
  return isIP(bare) === 0 ? undefined : bare;
}

function isHostAllowed(host: string, patterns: readonly string[]): boolean {
  return (
    patterns.length === 0 ||
    patterns.some((pattern) =>
      pattern.startsWith("*.") ? host.endsWith(pattern.slice(1)) : host === pattern,
    )
  );
}

/** Of IPv6, what is given out as global unicast; what lies outside is nobody's address, or somebody's in disguise. */
const GLOBAL_V6 = ipaddr.parseCIDR("2000::/3");

/** Whether this address may be called (A1). */
export function isCallable(address: string, allow: readonly string[]): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  for (const network of allow) {
    const [base, bits] = ipaddr.parseCIDR(network);
    if (base.kind() === parsed.kind() && parsed.match(base, bits)) return true;
  }
  if (parsed.range() !== "unicast") return false;
  return parsed.kind() === "ipv4" || parsed.match(GLOBAL_V6);
}

/**
 * The addresses to call, all of them looked at; none where the name has none, or one that may not be called (A2). Which of
 * the two is not told: it would tell what the service's name servers know.
 */
export async function pin(
  url: URL,
  settings: WebhookSettings,
  signal: AbortSignal,
): Promise<readonly Address[]> {
  const literal = literalOf(url);
  const found = literal === undefined ? await resolve(url.hostname, settings, signal) : [literal];
  if (!found.every((address) => isCallable(address, settings.allow))) return [];
  return found.slice(0, MAX_PINNED).map((address) => ({ address, family: isIP(address) as 4 | 6 }));
}

/** By the name servers alone: no hosts file and no search list, and nothing that occupies a thread. */
async function resolve(name: string, { dns }: WebhookSettings, signal: AbortSignal): Promise<string[]> {
  const resolver = new Resolver({ timeout: DNS_TIMEOUT_MS, tries: 2 });
  if (dns.length > 0) resolver.setServers(dns);
  const cancel = (): void => resolver.cancel();
  signal.addEventListener("abort", cancel, { once: true });
  try {
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    return answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}
