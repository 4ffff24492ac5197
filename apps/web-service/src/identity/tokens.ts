/**
 * Signed tokens (Ed25519 JWTs): short-lived access tokens for people and programs, and 60-second session tokens
 * for agents. One function verifies both, with everything pinned; a token of one kind never passes as the other.
 */
import { FarloomError } from "@farloom/protocol";
import { decodeProtectedHeader, errors, type JWTPayload, jwtVerify, SignJWT } from "jose";
import type { SigningKey } from "./signing-key.js";

const ISSUER = "farloom";
const KINDS = {
  access: { typ: "farloom-access+jwt", audience: "farloom-api", maxAgeMs: 10 * 60_000 },
  agent: { typ: "farloom-agent+jwt", audience: "farloom-agent", maxAgeMs: 60_000 },
} as const;
export type TokenKind = keyof typeof KINDS;

/** Far longer than any of ours; longer texts are not parsed. */
const MAX_TOKEN_CHARS = 4_096;

export interface VerifiedToken {
  readonly subject: string;
  readonly claims: JWTPayload;
  readonly expiresAtMs: number;
}

export class Tokens {
  readonly #key: SigningKey;

  constructor(key: SigningKey) {
    this.#key = key;
  }

  /** A token of `kind` for `subject`; never valid for longer than the kind allows. */
  async sign(
    kind: TokenKind,
    subject: string,
    claims: JWTPayload = {},
  ): Promise<{ token: string; expiresInMs: number }> {
    const { typ, audience, maxAgeMs } = KINDS[kind];
    const nowS = Math.floor(Date.now() / 1000);
    const token = await new SignJWT(claims)
      .setProtectedHeader({ alg: "EdDSA", typ, kid: this.#key.kid })
      .setIssuer(ISSUER)
      .setAudience(audience)
      .setSubject(subject)
      .setIssuedAt(nowS)
      .setExpirationTime(nowS + maxAgeMs / 1000)
      .sign(this.#key.privateKey);
    return { token, expiresInMs: maxAgeMs };
  }

  /**
   * What the token says, if it is one of ours, of this kind, and still good.
   * @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED
   */
  async verify(kind: TokenKind, token: string): Promise<VerifiedToken> {
    const { typ, audience, maxAgeMs } = KINDS[kind];
    if (token.length > MAX_TOKEN_CHARS) throw new FarloomError("UNAUTHENTICATED");
    try {
      const { payload, protectedHeader } = await jwtVerify(token, this.#key.publicKey, {
        algorithms: ["EdDSA"],
        issuer: ISSUER,
        audience,
        typ,
        requiredClaims: ["sub", "iat", "exp"],
        maxTokenAge: maxAgeMs / 1000,
      });
      if (protectedHeader.kid !== this.#key.kid) throw new FarloomError("UNAUTHENTICATED");
      return { subject: payload.sub!, claims: payload, expiresAtMs: payload.exp! * 1000 };
    } catch (error) {
      if (error instanceof errors.JWTExpired) throw new FarloomError("TOKEN_EXPIRED", {}, { cause: error });
      throw new FarloomError("UNAUTHENTICATED", {}, { cause: error });
    }
  }

  /** Which kind a token claims to be, unverified: only to choose what to verify it as. */
  static claimedKind(token: string): TokenKind | undefined {
    if (token.length > MAX_TOKEN_CHARS) return undefined;
    try {
      const { typ } = decodeProtectedHeader(token);
      return typ === KINDS.access.typ ? "access" : typ === KINDS.agent.typ ? "agent" : undefined;
    } catch {
      return undefined;
    }
  }
}
