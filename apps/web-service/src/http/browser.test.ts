import type { FarloomError } from "@farloom/protocol";
import { describe, expect, it } from "vitest";
import {
  authorizationOf,
  csrfToken,
  placeOf,
  readCookie,
  requireOwnPage,
  sessionCookie,
  setCookie,
} from "./browser.js";

const codeOf = (work: () => unknown): string => {
  try {
    work();
    return "ok";
  } catch (error) {
    return (error as FarloomError).code;
  }
};

describe("where pages are", () => {
  it.each([
    ["https://farloom.example.org", "anything", { origin: "https://farloom.example.org", isSecure: true }],
    [
      "https://farloom.example.org:8443/x",
      undefined,
      { origin: "https://farloom.example.org:8443", isSecure: true },
    ],
    [undefined, "127.0.0.1:8722", { origin: "http://127.0.0.1:8722", isSecure: false }],
    [undefined, "localhost:80", { origin: "http://localhost", isSecure: false }],
    [undefined, "[::1]:8722", { origin: "http://[::1]:8722", isSecure: false }],
    ["http://localhost:9", "localhost:9", { origin: "http://localhost:9", isSecure: false }],
  ])("is the public address, or loopback (%s, Host %s)", (publicUrl, host, place) => {
    expect(placeOf(publicUrl, host)).toEqual(place);
  });

  it.each([
    [undefined, "farloom.example.org"],
    // A name of somebody else's that leads to this machine (DNS rebinding).
    [undefined, "127.0.0.1.evil.example:8722"],
    [undefined, "localhost.evil.example"],
    [undefined, "user@evil.example"],
    [undefined, ""],
    [undefined, undefined],
    ["http://farloom.example.org", "farloom.example.org"],
  ])("is nowhere over plain http elsewhere (%s, Host %s)", (publicUrl, host) => {
    expect(codeOf(() => placeOf(publicUrl, host))).toBe("LOGIN_INSECURE");
  });
});

describe("cookies", () => {
  const secure = { origin: "https://f.example", isSecure: true };
  const loopback = { origin: "http://localhost", isSecure: false };

  it("over https belong to this very host; on loopback they have another name and are not Secure", () => {
    expect(setCookie("session", secure, "v", 60)).toBe(
      "__Host-farloom=v; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=60",
    );
    expect(setCookie("session", loopback, "v")).toBe("farloom-loopback=v; Path=/; HttpOnly; SameSite=Lax");
    expect(setCookie("session", secure)).toContain("Max-Age=0");
  });

  it("are read by their whole name, and not at all where one comes twice", () => {
    expect(readCookie("a=1; farloom=2; b=3", "farloom")).toBe("2");
    for (const header of ["xfarloom=2", "farloom2=2", "farloom=", "farloom=1; farloom=2", "", undefined])
      expect(readCookie(header, "farloom"), header).toBeUndefined();
  });

  it("count under the name that they have here, and after an Authorization", () => {
    const cookie = "farloom-loopback=fls_evil; __Host-farloom=fls_good";
    expect(sessionCookie({ cookie }, "https://f.example")).toBe("fls_good");
    expect(sessionCookie({ cookie: "farloom-loopback=fls_evil" }, "https://f.example")).toBeUndefined();
    expect(authorizationOf({ cookie, authorization: "Bearer k" }, undefined)).toBe("Bearer k");
    expect(authorizationOf({ cookie }, undefined)).toBe("Bearer fls_evil");
  });

  it("are no place for another credential, of which no page's token would be asked", () => {
    for (const value of ["fl_0123456789abcdef_secret", "eyJhbGciOiJFZERTQSJ9.e30.x", "fls"]) {
      const cookie = `farloom-loopback=${value}`;
      expect(sessionCookie({ cookie }, undefined)).toBeUndefined();
      expect(authorizationOf({ cookie }, undefined)).toBeUndefined();
    }
  });
});

describe("what changes something", () => {
  const place = { origin: "https://f.example", isSecure: true };
  const attempt = (origin: string | undefined, cookie: string | undefined, token: unknown) =>
    codeOf(() => requireOwnPage(place, origin === undefined ? {} : { origin }, { cookie, token }));

  it("comes from a page of ours that was given to this cookie's holder", () => {
    const token = csrfToken("cookie");
    expect(attempt(place.origin, "cookie", token)).toBe("ok");
    for (const [origin, cookie, given] of [
      [undefined, "cookie", token],
      ["null", "cookie", token],
      ["https://f.example.evil", "cookie", token],
      ["http://f.example", "cookie", token],
      ["https://F.EXAMPLE:8443", "cookie", token],
      [place.origin, "other", token],
      [place.origin, undefined, token],
      [place.origin, undefined, csrfToken("")],
      [place.origin, undefined, ""],
      [place.origin, "cookie", ""],
      [place.origin, "cookie", undefined],
      [place.origin, "cookie", [token]],
      [place.origin, "cookie", `${token}x`],
    ] as const)
      expect(attempt(origin, cookie, given), JSON.stringify([origin, cookie, given])).toBe("ORIGIN_REFUSED");
  });
});
