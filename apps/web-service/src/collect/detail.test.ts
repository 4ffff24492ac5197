import { limits, type OutcomeDetail } from "@farloom/protocol";
import { describe, expect, it } from "vitest";
import { boundDetail } from "./detail.js";

describe("an outcome's detail", () => {
  it("keeps what is within bounds as it is", () => {
    const detail: OutcomeDetail = {
      error: { type: "ValueError", message: "no", traceback: "Traceback …" },
      stdout: "hello",
      stdoutBytes: 5,
      exitCode: 1,
      signal: "SIGKILL",
      worker: "python-1 (pid 7)",
    };
    expect(boundDetail(detail)).toEqual(detail);
  });

  it("keeps the tails of what is too long, and drops what is unknown or of the wrong type", () => {
    const bounded = boundDetail({
      stdout: `${"x".repeat(200_000)}end`,
      stderr: 7,
      exitCode: "1",
      secret: "y".repeat(1e6),
      error: { type: "T".repeat(1000), message: 5, traceback: `${"t".repeat(100_000)}last line` },
    } as unknown as OutcomeDetail);
    expect(bounded?.stdout).toHaveLength(limits.MAX_OUTPUT_TAIL_BYTES);
    expect(bounded?.stdout?.endsWith("end")).toBe(true);
    expect(bounded?.error?.traceback?.endsWith("last line")).toBe(true);
    expect(bounded?.error?.type).toHaveLength(200);
    expect(Object.keys(bounded ?? {})).toEqual(["error", "stdout"]);
  });

  it("is nothing where nothing is left", () => {
    expect(boundDetail(undefined)).toBeUndefined();
    expect(boundDetail({ nothing: 1 } as unknown as OutcomeDetail)).toBeUndefined();
  });
});
