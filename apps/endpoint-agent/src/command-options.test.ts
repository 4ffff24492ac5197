import { describe, expect, it } from "vitest";
import { misplaced, parseOptions } from "./command-options.js";

const said = (...argv: string[]): string | undefined => {
  const { values, positionals } = parseOptions(argv);
  return misplaced(positionals[0] ?? "run", values);
};

describe("an option of another command", () => {
  it("is refused, with what the command takes", () => {
    expect(said("stop", "--within", "9s", "--workers", "4")).toBe(
      "stop takes no --workers\n\n  farloom-endpoint-agent stop [--state-dir DIR] [--json] [--within TIME]",
    );
    expect(said("run", "--purge", "--shared")).toContain("run takes no --purge, --shared\n");
    expect(said("logs", "-o", "x")).toContain("logs takes no --output");
    expect(said("rekey", "--json")).toContain("rekey takes no --json");
  });

  it("is not one where the command takes it, and of no command at all it is said elsewhere", () => {
    expect(said("--workers", "2", "--isolation", "limits")).toBeUndefined();
    expect(said("start", "--watch", "--workers", "2", "--state-dir", "/s")).toBeUndefined();
    expect(said("trust", "add", "key", "--function", "a/b", "--not-after", "never")).toBeUndefined();
    expect(said("constructor", "--purge")).toBeUndefined();
    expect(() => parseOptions(["run", "--colour"])).toThrow("--colour");
  });
});
