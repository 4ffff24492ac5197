import type { FarloomError } from "@farloom/protocol";
import { describe, expect, it } from "vitest";
import { html } from "../pages/html.js";
import { nextOf } from "../pages/visit.js";
import { accountNameFrom } from "./accounts.js";
import { Attempts } from "./attempts.js";
import { successor } from "./login-sessions.js";
import { admit } from "./oidc.js";
import { parseOidcProviders } from "./oidc-config.js";
import { checkPassword, hashPassword, verifyPassword } from "./passwords.js";
import { newUserCode, readUserCode } from "./user-code.js";

describe("user codes", () => {
  it("have eight consonants that are not taken for one another, and are never the same twice in a row", () => {
    const codes = new Set(Array.from({ length: 2_000 }, newUserCode));
    expect(codes.size).toBeGreaterThan(1_990);
    for (const code of codes) expect(code).toMatch(/^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$/);
  });

  it("are read however they were typed, and no other text is one", () => {
    for (const text of ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "B-C-D-F-G-H-J-K"])
      expect(readUserCode(text)).toBe("BCDF-GHJK");
    for (const text of ["", "BCDF-GHJ", "BCDF-GHJA", "BCDF-GHJ0", "BCDF_GHJK", "BCDF-GHJKL"])
      expect(readUserCode(text), text).toBeUndefined();
  });
});

describe("passwords", () => {
  it("are kept as scrypt with a salt of their own, and known again in every spelling of the same letters", async () => {
    const [one, two] = await Promise.all([hashPassword("Zürich am See!"), hashPassword("Zürich am See!")]);
    expect(one).toMatch(/^scrypt\$32768\$8\$3\$[\w-]{22}\$[\w-]{43}$/);
    expect(one).not.toBe(two);
    expect(await verifyPassword("Zu\u0308rich am See!", one)).toBe(true);
    expect(await verifyPassword("Zürich am See", one)).toBe(false);
    // A stored text that asks for more than any of ours is not followed.
    expect(await verifyPassword("Zürich am See!", "scrypt$1048576$8$1$AAAA$AAAA")).toBe(false);
    // Hashing is slow by design, and other tests run beside it.
  }, 60_000);

  it("have a length, and are not the account's name", () => {
    const weak = (password: string) => {
      try {
        checkPassword(password, "twelve-chars");
        return undefined;
      } catch (error) {
        return (error as FarloomError).code;
      }
    };
    expect([weak("x".repeat(11)), weak("x".repeat(257)), weak("Twelve-Chars")]).toEqual(
      Array(3).fill("PASSWORD_WEAK"),
    );
    expect(weak("x".repeat(12))).toBeUndefined();
  });
});

describe("tries", () => {
  it("of one key meet 429 with the time to wait, until what went well forgets them", () => {
    const attempts = new Attempts(2, 60_000);
    attempts.count("a");
    attempts.count("b");
    attempts.count("a");
    attempts.require("b");
    attempts.require("c");
    let error: FarloomError | undefined;
    try {
      attempts.require("a");
    } catch (caught) {
      error = caught as FarloomError;
    }
    expect([error?.code, error!.retryAfterMs! > 50_000]).toEqual(["RATE_LIMITED", true]);
    attempts.forget("a");
    attempts.require("a");
  });
});

describe("refresh tokens", () => {
  it("follow from the one before and the nonce together", () => {
    const next = successor("secret", "nonce");
    expect(next).toMatch(/^[\w-]{43}$/);
    expect(successor("secret", "nonce")).toBe(next);
    expect(new Set([next, successor("secret", "other"), successor("other", "nonce")]).size).toBe(3);
  });
});

describe("names of accounts", () => {
  it.each([
    ["Grace.Hopper@uni.example", "grace.hopper"],
    ["Žofie Nováková", "zofie-novakova"],
    ["../../etc", "etc"],
    ["---", "person"],
    ["", "person"],
    ["李", "person"],
    [`${"x".repeat(80)}@u`, "x".repeat(63)],
  ])("%s becomes %s", (given, name) => {
    const made = accountNameFrom(given);
    expect(made).toBe(name);
  });
});

describe("providers", () => {
  const good = { id: "uni", issuer: "https://uni.example", clientId: "c", allow: { anyone: true } };

  it("are taken with defaults that are safe", () => {
    expect(parseOidcProviders([good])[0]).toMatchObject({
      algorithm: "RS256",
      scopes: "openid email profile",
      clientSecret: undefined,
      admins: [],
    });
  });

  it.each([
    ["plain http elsewhere", { issuer: "http://uni.example" }],
    ["an algorithm with a shared secret", { algorithm: "HS256" }],
    ["no algorithm", { algorithm: "none" }],
    ["nobody allowed", { allow: {} }],
    ["allow forgotten", { allow: undefined }],
    ["a typo", { allowed: {} }],
    ["a typo within", { allow: { domain: ["x"] } }],
    ["an id that is no part of an address", { id: "../x" }],
    ["scopes without openid", { scopes: "email" }],
  ])("are refused with %s", (_what, change) => {
    expect(() => parseOidcProviders([{ ...good, clientSecret: "s3cret", ...change }])).toThrow(
      /^(?!.*s3cret)/,
    );
  });

  it("let in by verified domain, exactly, and by subject; admins are named by subject", () => {
    const [provider] = parseOidcProviders([
      { ...good, allow: { domains: ["Uni.Example"], subjects: ["s"] }, admins: ["s"] },
    ]);
    const claims = (more: object) => ({ iss: "i", sub: "x", aud: "c", iat: 1, exp: 2, ...more });
    const admits = (more: object) => {
      try {
        return admit(provider!, claims(more));
      } catch {
        return undefined;
      }
    };
    expect(admits({ email: "A@UNI.example", email_verified: true })).toMatchObject({ isAdmin: false });
    expect(admits({ sub: "s" })).toMatchObject({ isAdmin: true });
    for (const more of [
      {},
      { email: "a@uni.example" },
      { email: "a@uni.example", email_verified: "true" },
      { email: "a@x.uni.example", email_verified: true },
      { email: "uni.example", email_verified: true },
      { email: "a@uni.example@evil.example", email_verified: true },
    ])
      expect(admits(more), JSON.stringify(more)).toBeUndefined();
  });
});

describe("pages", () => {
  it("escape what is put into them, and lead nowhere else after a login", () => {
    const evil = `"><script>alert('x')</script>&`;
    expect(html`<p title="${evil}">${evil}</p>`.text).not.toMatch(/<script|title="">/);
    for (const next of ["/account", "/device", "/device?user_code=BCDF-GHJK"])
      expect(nextOf(next)).toBe(next);
    for (const next of [
      "//evil.example",
      "https://evil.example",
      "/device?x=1",
      "/account/../x",
      "",
      undefined,
      7,
    ])
      expect(nextOf(next)).toBe("/account");
  });
});
