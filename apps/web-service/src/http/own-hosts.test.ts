import { hostname } from "node:os";
import { describe, expect, it } from "vitest";
import { OwnHosts } from "./own-hosts.js";

const PUBLIC = "https://farloom.example:8443/base";
const hosts = new OwnHosts({ publicUrl: PUBLIC, host: "10.0.0.7", allowedHosts: ["Inner.Example"] });
const isOurs = (host: string | undefined, localAddress = "10.0.0.7"): boolean => {
  try {
    hosts.require(host, localAddress);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: "HOST_REFUSED", status: 421 });
    return false;
  }
};

describe("a request's host", () => {
  it.each([
    ["farloom.example:8443"],
    ["FARLOOM.example:8443"],
    ["localhost"],
    ["localhost:9000"],
    ["127.0.0.1:8722"],
    ["127.9.9.9"],
    ["[::1]:8722"],
    ["10.0.0.7:8722"],
    ["inner.example:80"],
    [`${hostname()}:8722`],
    [undefined],
  ])("is ours where it is %s", (host) => {
    expect(isOurs(host)).toBe(true);
  });

  it.each([
    ["evil.example"],
    ["evil.example:8443"],
    ["farloom.example"],
    ["farloom.example:443"],
    ["farloom.example.evil.example:8443"],
    ["localhost.evil.example"],
    ["127.0.0.1.evil.example"],
    ["127.evil.example:8722"],
    ["user@localhost"],
    ["localhost:8722@evil.example"],
    ["localhost:8722, evil.example"],
    ["10.0.0.8"],
    ["[::2]"],
    ["localhost:"],
    [""],
  ])("is another's where it is %s", (host) => {
    expect(isOurs(host)).toBe(false);
  });

  it("is the address that the connection came to, in each of its forms", () => {
    expect(isOurs("192.168.1.5:8722", "::ffff:192.168.1.5")).toBe(true);
    expect(isOurs("[fd00::5]:8722", "fd00::5")).toBe(true);
    expect(isOurs("192.168.1.6:8722", "::ffff:192.168.1.5")).toBe(false);
  });
});
