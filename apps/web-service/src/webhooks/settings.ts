/**
 * What an operator lets webhooks do, from FARLOOM_WEBHOOKS and the variables that narrow or widen it. Without it there are
 * none: a service that calls addresses of its users' choice is one that somebody has asked for.
 */
import { readFileSync } from "node:fs";
import { isIP } from "node:net";

export interface WebhookSettings {
  /** Hosts that may be called: names, or `*.` and what they end with. Empty: every one. FARLOOM_WEBHOOKS_HOSTS. */
  readonly hosts: readonly string[];
  /** FARLOOM_WEBHOOKS_PORTS; default 443, and 80 where http is allowed. */
  readonly ports: readonly number[];
  /** Whether http:// may be called, too. FARLOOM_WEBHOOKS_HTTP=on. */
  readonly http: boolean;
  /** Networks that are not public and may be called nevertheless. FARLOOM_WEBHOOKS_ALLOW; default: none. */
  readonly allow: readonly string[];
  /** Authorities that are believed besides the usual ones, PEM. From the file FARLOOM_WEBHOOKS_CA_FILE. */
  readonly ca: string | undefined;
  /** Name servers, `address` or `address:port`. FARLOOM_WEBHOOKS_DNS; default: the machine's. */
  readonly dns: readonly string[];
  /** Until a delivery that failed is tried again the first time; then six times as long each time. FARLOOM_WEBHOOKS_RETRY_MS. */
  readonly retryMs: number;
}

/** All but the switch itself: without it they are a mistake. */
const OTHERS = ["HOSTS", "PORTS", "HTTP", "ALLOW", "CA_FILE", "DNS", "RETRY_MS"];
const HOST = /^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$|^\[[0-9a-f:.]+\]$/;

type Env = Readonly<Record<string, string | undefined>>;

/** Undefined where webhooks are off. @throws Error that names the variable */
export function webhookSettings(env: Env): WebhookSettings | undefined {
  const text = (name: string): string => env[`FARLOOM_WEBHOOKS${name}`] ?? "";
  const isOn = flag("FARLOOM_WEBHOOKS", text(""));
  if (!isOn) {
    const other = OTHERS.find((name) => text(`_${name}`) !== "");
    if (other === undefined) return undefined;
    throw new Error(`FARLOOM_WEBHOOKS_${other} is set, but FARLOOM_WEBHOOKS is not on`);
  }
  const http = flag("FARLOOM_WEBHOOKS_HTTP", text("_HTTP"));
  const ports = list(text("_PORTS")).map((port) => number("FARLOOM_WEBHOOKS_PORTS", port, 65_535));
  const caFile = text("_CA_FILE");
  return Object.freeze({
    hosts: list(text("_HOSTS")).map((host) => matching("FARLOOM_WEBHOOKS_HOSTS", host.toLowerCase(), HOST)),
    ports: ports.length > 0 ? ports : http ? [443, 80] : [443],
    http,
    allow: list(text("_ALLOW")).map(network),
    ca: caFile === "" ? undefined : certificates(caFile),
    dns: list(text("_DNS")).map(server),
    retryMs:
      text("_RETRY_MS") === "" ? 5_000 : number("FARLOOM_WEBHOOKS_RETRY_MS", text("_RETRY_MS"), 3_600_000),
  });
}

const list = (text: string): string[] =>
  text
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");

function flag(variable: string, value: string): boolean {
  if (value === "on") return true;
  if (value === "" || value === "off") return false;
  throw new Error(`${variable} is ${JSON.stringify(value)}, not on or off`);
}

function number(variable: string, text: string, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max)
    throw new Error(`${variable} has ${JSON.stringify(text)}, not a number from 1 to ${max}`);
  return value;
}

function matching(variable: string, text: string, pattern: RegExp): string {
  if (!pattern.test(text))
    throw new Error(`${variable} has ${JSON.stringify(text)}, which is no host or *.domain`);
  return text;
}

function network(text: string): string {
  const [address = "", bits = "", ...rest] = text.split("/");
  const size = isIP(address) === 6 ? 128 : 32;
  const isGood = isIP(address) !== 0 && rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= size;
  // A lone address is written with its /32 or /128: nobody opens a network by leaving something out.
  if (!isGood)
    throw new Error(`FARLOOM_WEBHOOKS_ALLOW has ${JSON.stringify(text)}, not a network like 10.1.0.0/16`);
  return text;
}

function server(text: string): string {
  const host =
    /^\[([0-9a-fA-F:.]+)\](:\d{1,5})?$/.exec(text)?.[1] ??
    (isIP(text) ? text : text.replace(/:\d{1,5}$/, ""));
  if (isIP(host) === 0)
    throw new Error(`FARLOOM_WEBHOOKS_DNS has ${JSON.stringify(text)}, which is no address of a server`);
  return text;
}

function certificates(path: string): string {
  try {
    const pem = readFileSync(path, "utf8");
    if (pem.includes("BEGIN CERTIFICATE")) return pem;
  } catch (error) {
    throw new Error(`FARLOOM_WEBHOOKS_CA_FILE cannot be read: ${(error as Error).message}`);
  }
  throw new Error("FARLOOM_WEBHOOKS_CA_FILE has no certificate in PEM");
}
