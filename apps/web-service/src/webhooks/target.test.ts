// Which addresses may be called, against the registries of special addresses (IANA), written here as they are there and
// compared bit by bit by other means than ours.
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { webhookSettings } from "./settings.js";
import { checkUrl, isCallable } from "./target.js";

const SPECIAL_V4 = [
  ...[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
  ],
  ...[
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
  ],
  ...["224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"],
];
const SPECIAL_V6 = [
  ...[
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
  ],
  ...["2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"],
  ...["fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/3", "8000::/3", "c000::/3"],
];
const ROUNDS = 200;

/** Bits that follow from the seed: the same in every run. */
function bits(seed: string): bigint {
  return BigInt(`0x${createHash("sha256").update(seed).digest("hex").slice(0, 32)}`);
}

function textV4(value: bigint): string {
  return [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 255n)).join(".");
}
function textV6(value: bigint): string {
  return Array.from({ length: 8 }, (_, i) => ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16)).join(
    ":",
  );
}
function numberOf(address: string): bigint {
  if (!address.includes(":")) return address.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n);
  const [before = "", after = ""] = address.split("::");
  const words = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const [head, tail] = [words(before), words(after)];
  const all = [...head, ...new Array<string>(8 - head.length - tail.length).fill("0"), ...tail];
  return all.reduce((sum, word) => sum * 65_536n + BigInt(Number.parseInt(word, 16)), 0n);
}

interface Network {
  readonly base: bigint;
  readonly rest: bigint;
}
function networkOf(text: string): Network {
  const [address, length] = text.split("/") as [string, string];
  const size = address.includes(":") ? 128 : 32;
  return { base: numberOf(address), rest: BigInt(size - Number(length)) };
}
const holds = ({ base, rest }: Network, value: bigint): boolean => value >> rest === base >> rest;

describe("an address", () => {
  it.each([...SPECIAL_V4, ...SPECIAL_V6])(
    "of %s is never called: the first, the last and any between",
    (text) => {
      const { base, rest } = networkOf(text);
      const span = 1n << rest;
      const write = text.includes(":") ? textV6 : textV4;
      const inside = Array.from({ length: ROUNDS }, (_, i) => base + (bits(`${text} ${i}`) % span));
      for (const value of [base, base + span - 1n, ...inside]) {
        expect(isCallable(write(value), []), write(value)).toBe(false);
      }
    },
  );

  it("that is outside all of them is called", () => {
    const [v4, v6] = [SPECIAL_V4.map(networkOf), SPECIAL_V6.map(networkOf)];
    // Anycast of AS 112 and of relays, and what 2001::/23 keeps for protocols: no hosts that take requests.
    const unused = ["192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"].map(networkOf);
    const unused6 = ["2001::/23", "2620:4f:8000::/48"].map(networkOf);
    let called = 0;
    for (let i = 0; i < 20 * ROUNDS; i++) {
      const value4 = bits(`v4 ${i}`) % (1n << 32n);
      if (![...v4, ...unused].some((network) => holds(network, value4))) {
        expect(isCallable(textV4(value4), []), textV4(value4)).toBe(true);
        called++;
      }
      const value6 = (1n << 125n) + (bits(`v6 ${i}`) % (1n << 125n));
      if (![...v6, ...unused6].some((network) => holds(network, value6))) {
        expect(isCallable(textV6(value6), []), textV6(value6)).toBe(true);
        called++;
      }
    }
    expect(called).toBeGreaterThan(20 * ROUNDS);
  });

  it("in a network that the operator named is called, and only there", () => {
    const allow = ["10.1.0.0/16", "fd00:1::/32"];
    expect(["10.1.0.1", "10.1.255.255", "fd00:1::1"].map((one) => isCallable(one, allow))).toEqual([
      true,
      true,
      true,
    ]);
    const others = [
      "10.2.0.1",
      "10.0.255.255",
      "fd00:2::1",
      "::ffff:10.1.0.1",
      "::ffff:a01:1",
      "64:ff9b::a01:1",
    ];
    expect(others.filter((one) => isCallable(one, allow))).toEqual([]);
  });

  it("that is none is not called", () => {
    expect(
      ["", "localhost", "1.2.3", "1.2.3.4/8", "fe80::1%eth0", "[::1]"].filter((one) => isCallable(one, [])),
    ).toEqual([]);
  });
});

describe("a URL", () => {
  const plain = webhookSettings({ FARLOOM_WEBHOOKS: "on" })!;
  const isGood = (url: string, settings = plain): boolean => "url" in checkUrl(url, settings);

  it("whose host is an address in any writing is checked as what it is", () => {
    const loopback = [
      "127.0.0.1",
      "2130706433",
      "0x7f000001",
      "017700000001",
      "127.1",
      "0x7f.1",
      "0177.0.0.01",
    ];
    const others = [
      "[::1]",
      "[::ffff:127.0.0.1]",
      "[::127.0.0.1]",
      "[64:ff9b::a9fe:a9fe]",
      "0",
      "0.0.0.0",
      "%31%32%37.1",
    ];
    const hosts = [...loopback, ...others, "１２７.0.0.1", "169.254.169.254", "[fe80::1]", "[2002:7f00:1::]"];
    expect(hosts.filter((host) => isGood(`https://${host}/`))).toEqual([]);
    expect(
      ["93.184.215.14", "1572395790", "[2606:2800:21f:cb07::1]"].filter(
        (host) => !isGood(`https://${host}/`),
      ),
    ).toEqual([]);
  });

  it("is https on port 443 unless the operator says otherwise", () => {
    expect(isGood("https://a.example/x?y")).toBe(true);
    expect(
      ["http://a.example/", "https://a.example:8443/", "wss://a.example/", "file:///etc/passwd"].filter((u) =>
        isGood(u),
      ),
    ).toEqual([]);
    const wide = webhookSettings({
      FARLOOM_WEBHOOKS: "on",
      FARLOOM_WEBHOOKS_HTTP: "on",
      FARLOOM_WEBHOOKS_PORTS: "80,8443",
    })!;
    expect(["http://a.example/", "https://a.example:8443/"].every((u) => isGood(u, wide))).toBe(true);
    expect(isGood("https://a.example/", wide)).toBe(false);
  });

  it("names a host that the operator lets people call", () => {
    const some = webhookSettings({
      FARLOOM_WEBHOOKS: "on",
      FARLOOM_WEBHOOKS_HOSTS: "hooks.example.org, *.lab.example",
    })!;
    expect(
      ["hooks.example.org", "HOOKS.example.org", "a.lab.example", "a.b.lab.example"].every((h) =>
        isGood(`https://${h}/`, some),
      ),
    ).toBe(true);
    const others = [
      "lab.example",
      "evillab.example",
      "x.hooks.example.org",
      "hooks.example.org.evil.example",
      "example.org",
    ];
    expect(others.filter((h) => isGood(`https://${h}/`, some))).toEqual([]);
  });
});

describe("the settings", () => {
  it("are none by default, and nothing is set beside a switch that is off", () => {
    expect(webhookSettings({})).toBeUndefined();
    expect(webhookSettings({ FARLOOM_WEBHOOKS: "off" })).toBeUndefined();
    expect(() => webhookSettings({ FARLOOM_WEBHOOKS_ALLOW: "10.0.0.0/8" })).toThrow(
      /FARLOOM_WEBHOOKS is not on/,
    );
    expect(webhookSettings({ FARLOOM_WEBHOOKS: "on" })).toMatchObject({
      hosts: [],
      ports: [443],
      http: false,
      allow: [],
    });
  });

  it.each([
    ["FARLOOM_WEBHOOKS", "yes"],
    ["FARLOOM_WEBHOOKS_HTTP", "1"],
    ["FARLOOM_WEBHOOKS_PORTS", "443,0"],
    ["FARLOOM_WEBHOOKS_HOSTS", "*"],
    ["FARLOOM_WEBHOOKS_HOSTS", "a.*.example"],
    ["FARLOOM_WEBHOOKS_ALLOW", "10.0.0.0"],
    ["FARLOOM_WEBHOOKS_ALLOW", "10.0.0.0/33"],
    ["FARLOOM_WEBHOOKS_DNS", "ns.example"],
    ["FARLOOM_WEBHOOKS_CA_FILE", "/nowhere/ca.pem"],
    ["FARLOOM_WEBHOOKS_RETRY_MS", "soon"],
  ])("%s=%s is refused by its name", (variable, value) => {
    expect(() => webhookSettings({ FARLOOM_WEBHOOKS: "on", [variable]: value })).toThrow(variable);
  });
});
