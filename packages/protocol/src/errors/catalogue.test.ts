import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ERRORS, type ErrorCode, errorMessage, FarloomError, isRetryable } from "./catalogue.js";

const page = readFileSync(new URL("../../../../docs/errors.md", import.meta.url), "utf8");
const rows = page
  .split("\n")
  .map((line) => /^\| `([A-Z_]+)` +\| (\d{3}) +\| (yes|no) +\| (.+?) +\|$/.exec(line))
  .filter((match) => match !== null);

describe("docs/errors.md", () => {
  it("lists every code of the catalogue once, in its order, and no other", () => {
    expect(rows.map((row) => row[1])).toEqual(Object.keys(ERRORS));
  });

  it.each(Object.entries(ERRORS))(
    "says of %s what the catalogue says",
    (code, { status, retryable, message }) => {
      const row = rows.find((r) => r[1] === code);
      expect(row?.slice(2)).toEqual([
        String(status),
        retryable ? "yes" : "no",
        message.replaceAll("|", "\\|"),
      ]);
    },
  );
});

describe("the catalogue", () => {
  it.each(Object.entries(ERRORS))(
    "gives %s a status of HTTP and a message that is a sentence",
    (_code, { status, message }) => {
      expect(status).toBeGreaterThanOrEqual(200);
      expect(status).toBeLessThan(600);
      expect(message).toMatch(/^[A-Z{].*([.}])$/);
    },
  );

  it("tells only of what may pass as retryable: nothing that the caller has to change", () => {
    const mended = new Set([400, 403, 404, 410, 413, 415, 416, 422, 426]);
    const wrong = Object.entries(ERRORS).filter(([, e]) => e.retryable && mended.has(e.status));
    expect(wrong.map(([code]) => code)).toEqual([]);
  });
});

describe("an error", () => {
  it("fills in its values, and leaves what it was not given visible", () => {
    expect(errorMessage("TASK_NOT_FOUND", { id: "7" })).toBe("There is no task 7 that you may see.");
    expect(errorMessage("NOT_CANCELLABLE", { id: "7" })).toBe("Task 7 has already finished as {state}.");
    expect(errorMessage("TASK_NOT_FOUND", { id: "{id} $& $1" })).toContain("{id} $& $1");
  });

  it("keeps its cause and carries what a caller needs to decide", () => {
    const cause = new Error("disk");
    const error = new FarloomError("RATE_LIMITED", { seconds: 2 }, { cause, retryAfterMs: 2_000 });
    expect(error).toMatchObject({
      code: "RATE_LIMITED",
      status: 429,
      retryable: true,
      retryAfterMs: 2_000,
      cause,
    });
  });

  it("of an unknown code, or of a name that every object has, is not retryable", () => {
    for (const code of ["NOPE", "toString", "__proto__", "constructor", ""])
      expect(isRetryable(code), code).toBeFalsy();
    const codes = Object.keys(ERRORS) as ErrorCode[];
    expect(codes.filter(isRetryable)).toContain("OVERLOADED");
  });
});
