/**
 * Passwords of local accounts: scrypt with N = 2^15, r = 8, p = 3 (32 MiB, some 0.3 s; the strength that OWASP asks for),
 * a salt of 16 bytes, a hash of 32. The parameters stand in the text, so that a stronger choice can follow.
 *
 *   1. Hashing runs in the thread pool, few at a time: a burst of logins waits in line, and takes no more memory.
 *   2. An account that does not exist costs what a wrong password costs.
 */
import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from "node:crypto";
import { FarloomError } from "@farloom/protocol";

export const MIN_PASSWORD_CHARS = 12;
export const MAX_PASSWORD_CHARS = 256;

const PARAMETERS = { N: 2 ** 15, r: 8, p: 3 } as const;
/** What a stored text may ask for at most: nobody else writes them, but a bound costs nothing. */
const MAX_COST = 2 ** 17;
const SALT_BYTES = 16;
const HASH_BYTES = 32;
const AT_ONCE = 2;
/** Those who wait in line (1); beyond, the service has too much in hand. */
const MAX_WAITING = 100;
const TEXT = /^scrypt\$(\d{1,6})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9_-]+)\$([A-Za-z0-9_-]+)$/;

let running = 0;
const waiting: (() => void)[] = [];

/** @throws FarloomError PASSWORD_WEAK */
export function checkPassword(password: string, name: string): void {
  const { length } = [...password];
  if (length >= MIN_PASSWORD_CHARS && length <= MAX_PASSWORD_CHARS && password.toLowerCase() !== name) return;
  throw new FarloomError("PASSWORD_WEAK", { min: MIN_PASSWORD_CHARS, max: MAX_PASSWORD_CHARS });
}

/** What is stored of a password. @throws FarloomError OVERLOADED */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const { N, r, p } = PARAMETERS;
  const key = await derive(password, salt, PARAMETERS);
  return ["scrypt", N, r, p, salt.toString("base64url"), key.toString("base64url")].join("$");
}

/** Whether the password is the stored one; undefined stands for nobody's, and takes as long (2). @throws FarloomError OVERLOADED */
export async function verifyPassword(password: string, stored: string | undefined): Promise<boolean> {
  const match = stored === undefined ? null : TEXT.exec(stored);
  const [N, r, p] = match ? [Number(match[1]), Number(match[2]), Number(match[3])] : [0, 0, 0];
  if (match === null || N! > MAX_COST || password.length > 4 * MAX_PASSWORD_CHARS) {
    const key = await derive("", Buffer.alloc(SALT_BYTES), PARAMETERS);
    return timingSafeEqual(Buffer.alloc(HASH_BYTES), key) && false;
  }
  const expected = Buffer.from(match[5]!, "base64url");
  const key = await derive(password, Buffer.from(match[4]!, "base64url"), { N: N!, r: r!, p: p! });
  return expected.length === key.length && timingSafeEqual(expected, key);
}

async function derive(
  password: string,
  salt: Buffer,
  cost: { N: number; r: number; p: number },
): Promise<Buffer> {
  if (running >= AT_ONCE) {
    if (waiting.length >= MAX_WAITING)
      throw new FarloomError("OVERLOADED", { detail: "many people log in at once" }, { retryAfterMs: 5_000 });
    await new Promise<void>((go) => waiting.push(go));
  } else running++;
  try {
    // Unicode has several spellings of the same password; NFKC makes them one.
    const options: ScryptOptions = { ...cost, maxmem: 256 * cost.N * cost.r };
    return await new Promise((resolve, reject) =>
      scrypt(password.normalize("NFKC"), salt, HASH_BYTES, options, (error, key) =>
        error ? reject(error) : resolve(key),
      ),
    );
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
  }
}
