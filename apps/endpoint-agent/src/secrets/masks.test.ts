import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MaskedStream, Masks } from "./masks.js";

const VECTORS = new URL("../../../../packages/protocol/vectors/masks.json", import.meta.url);
const vectors = JSON.parse(readFileSync(VECTORS, "utf8")) as {
  readonly title: string;
  readonly secrets: string[];
  readonly text: string;
  readonly masked: string;
  readonly start?: boolean;
  readonly end?: boolean;
}[];

describe("masks", () => {
  it.each(vectors)("mask $title", ({ secrets, text, masked, start = false, end = false }) => {
    expect(new Masks(secrets).maskText(text, { start, end })).toBe(masked);
  });

  it("leave the same buffer where there is nothing to mask", () => {
    const bytes = Buffer.from("nothing of interest");
    expect(new Masks(["hunter2hunter2"]).mask(bytes)).toBe(bytes);
  });

  it("take away a pickled exception that holds a secret, and keep one that holds none", () => {
    const masks = new Masks(["hunter2hunter2"]);
    const of = (text: string) => ({ type: "E", message: "m", data: Buffer.from(text).toString("base64") });
    expect(masks.maskDetail({ error: of("x hunter2hunter2 y") }).error).toEqual({ type: "E", message: "m" });
    expect(masks.maskDetail({ error: of("nothing") }).error).toEqual(of("nothing"));
  });
});

/** Few letters, so that secrets overlap, repeat and begin in one another. */
const letters = (min: number, max: number) =>
  fc.string({ unit: fc.constantFrom("a", "b"), minLength: min, maxLength: max });
const secretsAndText = fc
  .array(letters(6, 12), { minLength: 1, maxLength: 3 })
  .chain((secrets) =>
    fc
      .array(fc.oneof(fc.constantFrom(...secrets), letters(0, 8)), { maxLength: 12 })
      .map((parts) => ({ secrets, text: parts.join("") })),
  );
/** What every byte of an occurrence is, looked for the plain way. */
function plainly(secrets: readonly string[], text: string): string {
  const out = [...text];
  for (const secret of secrets)
    for (let at = text.indexOf(secret); at >= 0; at = text.indexOf(secret, at + 1))
      out.fill("*", at, at + secret.length);
  return out.join("");
}

describe("a masked stream", () => {
  it("gives what masking the whole gives, wherever it is cut, and holds back no more than what may begin a secret", () => {
    fc.assert(
      fc.property(secretsAndText, fc.array(fc.nat(), { maxLength: 8 }), ({ secrets, text }, cuts) => {
        const stream = new MaskedStream(new Masks(secrets));
        const at = [...new Set(cuts.map((cut) => cut % (text.length + 1)))].sort((a, b) => a - b);
        let told = "";
        let from = 0;
        for (const to of [...at, text.length]) {
          const piece = stream.push(from, Buffer.from(text.slice(from, to)));
          expect(piece.at).toBe(told.length);
          told += piece.data.toString();
          from = to;
          const held = text.slice(told.length, to);
          expect(held === "" || secrets.some((s) => s.startsWith(held) && s.length > held.length)).toBe(true);
        }
        expect(told).toBe(plainly(secrets, text).slice(0, told.length));
      }),
      { numRuns: 500 },
    );
  });

  it("tells no four bytes of a secret beside a gap", () => {
    const secret = "0123456789abcdef";
    fc.assert(
      fc.property(fc.nat(15), fc.integer({ min: 1, max: 64 }), (cut, gap) => {
        const stream = new MaskedStream(new Masks([secret]));
        const first = stream.push(0, Buffer.from(`>> ${secret.slice(0, cut)}`)).data.toString();
        const after = stream.push(100 + gap, Buffer.from(`${secret.slice(cut)} <<`)).data.toString();
        for (let i = 0; i + 4 <= secret.length; i++)
          expect(first + after).not.toContain(secret.slice(i, i + 4));
      }),
    );
  });
});
