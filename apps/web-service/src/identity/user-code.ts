/**
 * The code that a person carries from a terminal to a browser: eight consonants (RFC 8628, 6.1), which make no words and
 * are not taken for one another or for digits; 2.6 · 10^10 of them, each for ten minutes.
 */
import { randomInt } from "node:crypto";

const ALPHABET = "BCDFGHJKLMNPQRSTVWXZ";
const HALF = 4;

/** A new one, as it is shown: `BCDF-GHJK`. */
export function newUserCode(): string {
  const letters = Array.from({ length: 2 * HALF }, () => ALPHABET[randomInt(ALPHABET.length)]);
  return `${letters.slice(0, HALF).join("")}-${letters.slice(HALF).join("")}`;
}

/** As shown, whatever case, spaces or dashes it was typed with; undefined where it can be none. */
export function readUserCode(text: string): string | undefined {
  const letters = text.slice(0, 40).toUpperCase().replace(/[\s-]/g, "");
  if (letters.length !== 2 * HALF || [...letters].some((letter) => !ALPHABET.includes(letter)))
    return undefined;
  return `${letters.slice(0, HALF)}-${letters.slice(HALF)}`;
}
