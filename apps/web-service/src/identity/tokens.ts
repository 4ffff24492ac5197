/**
 * Signed tokens (Ed25519 JWTs): short-lived access tokens for people and programs, session tokens of 60 seconds for agents
 * (which open one connection, see claimEndpoint, or none), tokens for some objects alone, and those of running tasks. One
 * function verifies all of them, with everything pinned; a token of one kind never passes as another.
 */
import { FarloomError } from "@farloom/protocol";
import { decodeProtectedHeader, errors, type JWTPayload, jwtVerify, SignJWT } from "jose";
import type { Clock } from "../store/database-clock.js";
import type { KeyRing } from "./key-ring.js";

const ISSUER = "farloom";
const KINDS = {
  access: { typ: "farloom-access+jwt", audience: "farloom-api", maxAgeMs: 10 * 60_000 },
  agent: { typ: "farloom-agent+jwt", audience: "farloom-agent", maxAgeMs: 60_000 },
  nested: { typ: "farloom-nested+jwt", audience: "farloom-nested", maxAgeMs: 10 * 60_000 },
  object: { typ: "farloom-object+jwt", audience: "farloom-objects", maxAgeMs: 60 * 60_000 },
} as const;
export type TokenKind = keyof typeof KINDS;

/** Far longer than any of ours; longer texts are not parsed. */
const MAX_TOKEN_CHARS = 4_096;

const CLOCK_TOLERANCE_S = 2;

export interface VerifiedToken {
  readonly subject: string;
  readonly claims: JWTPayload;
  readonly expiresAtMs: number;
}

export class Tokens {
  readonly #keys: KeyRing;
  readonly #clock: Clock;

  constructor(keys: KeyRing, clock: Clock) {
    this.#keys = keys;
    this.#clock = clock;
  }

  /** A token of `kind` for `subject`; never valid for longer than the kind allows. */
  async sign(
    kind: TokenKind,
    subject: string,
    claims: JWTPayload = {},
    lifeMs: number = KINDS[kind].maxAgeMs,
  ): Promise<{ token: string; expiresInMs: number }> {
    const { typ, audience, maxAgeMs } = KINDS[kind];
    const lifeS = Math.floor(Math.min(lifeMs, maxAgeMs) / 1000);
    const nowS = Math.floor(this.#clock.nowMs() / 1000);
    const { kid, privateKey } = this.#keys.signing;
    const token = await new SignJWT(claims)
      .setProtectedHeader({ alg: "EdDSA", typ, kid })
      .setIssuer(ISSUER)
      .setAudience(audience)
      .setSubject(subject)
      .setIssuedAt(nowS)
      .setExpirationTime(nowS + lifeS)
      .sign(privateKey);
    return { token, expiresInMs: lifeS * 1000 };
  }

  /**
   * What the token says, if it is one of ours, of this kind, and still good.
   * @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED
   */
  async verify(kind: TokenKind, token: string): Promise<VerifiedToken> {
    const { typ, audience, maxAgeMs } = KINDS[kind];
    if (token.length > MAX_TOKEN_CHARS) throw new FarloomError("UNAUTHENTICATED");
    try {
      const find = ({ kid }: { kid?: string }) => {
        const key = this.#keys.find(kid);
        if (key === undefined) throw new FarloomError("UNAUTHENTICATED");
        return key;
      };
      const { payload } = await jwtVerify(token, find, {
        algorithms: ["EdDSA"],
        issuer: ISSUER,
        audience,
        typ,
        requiredClaims: ["sub", "iat", "exp"],
        maxTokenAge: maxAgeMs / 1000,
        currentDate: new Date(this.#clock.nowMs()),
        // Two replicas know the database's clock to within some milliseconds, and a token's times are whole seconds.
        clockTolerance: CLOCK_TOLERANCE_S,
      });
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
      return (Object.keys(KINDS) as TokenKind[]).find((kind) => KINDS[kind].typ === typ);
    } catch {
      return undefined;
    }
  }
}
