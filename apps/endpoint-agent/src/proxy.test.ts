import { afterEach, beforeEach, expect, it } from "vitest";
import { maskedUrl, proxyAgentOf, proxyOf } from "./proxy.js";

const NAMES = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"].flatMap((name) => [
  name,
  name.toLowerCase(),
]);
const before = Object.fromEntries(NAMES.map((name) => [name, process.env[name]]));
beforeEach(() => {
  for (const name of NAMES) delete process.env[name];
});
afterEach(() => {
  for (const name of NAMES) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
});

it("a request and the link go the same way, by the scheme that they stand for", () => {
  process.env.HTTPS_PROXY = "http://proxy:3128";
  expect(proxyOf("https://farloom.example.org/v1")).toBe("http://proxy:3128");
  expect(proxyOf("wss://farloom.example.org/v1/agent-link")).toBe("http://proxy:3128");
  expect(proxyOf("http://farloom.example.org")).toBeUndefined();
  expect(proxyAgentOf("https://a.org")).toBe(proxyAgentOf(new URL("wss://b.org")));
  expect(proxyAgentOf("http://a.org")).toBeUndefined();
});

it("NO_PROXY and loopback go directly: a proxy's loopback is another one", () => {
  process.env.all_proxy = "http://proxy:3128";
  process.env.NO_PROXY = ".example.org";
  expect(proxyOf("https://farloom.example.org")).toBeUndefined();
  expect(proxyOf("https://example.com")).toBe("http://proxy:3128");
  for (const url of ["http://127.0.0.1:8722", "ws://localhost:8722", "http://[::1]:8722"]) {
    expect(proxyOf(url), url).toBeUndefined();
  }
});

it("a proxy without a scheme is spoken to in the clear, and one with https is not", () => {
  process.env.HTTPS_PROXY = "proxy:3128";
  expect(proxyOf("https://a.org")).toBe("http://proxy:3128");
  process.env.HTTPS_PROXY = "https://proxy:3129";
  expect(proxyOf("https://a.org")).toBe("https://proxy:3129");
});

it("a URL for people has no password", () => {
  expect(maskedUrl("http://ann:hunter2@proxy:3128/")).toBe("http://***@proxy:3128/");
  expect(maskedUrl("http://proxy:3128")).toBe("http://proxy:3128");
  expect(maskedUrl("no url")).toBe("no url");
});
