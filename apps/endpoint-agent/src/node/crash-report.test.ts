import { describe, expect, it } from "vitest";
import { crashReport } from "./crash-report.js";

const REPORT = `Fatal Python error: Segmentation fault

Current thread 0x00007f0b (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "<farloom_0123456789ab>", line 5 in crash
  File "/opt/farloom/workers/python/farloom_worker.py", line 1300 in execute
  File "/opt/farloom/workers/python/farloom_worker.py", line 1969 in <module>

Extension modules: numpy.core._multiarray_umath (total: 1)
`;

describe("the report of a crashed interpreter", () => {
  it("is its last fatal error, and the traceback without the worker's own frames", () => {
    const report = crashReport(`the function said this\nFatal Python error: an older one\n${REPORT}`);
    expect(report?.message).toBe("Fatal Python error: Segmentation fault");
    expect(report?.traceback).toContain('File "<farloom_0123456789ab>", line 5 in crash');
    expect(report?.traceback).not.toContain("farloom_worker.py");
    expect(report?.traceback).not.toContain("Extension modules");
    expect(report?.traceback).not.toContain("older");
  });

  it("is none where nothing was said, or where a function quotes one within a line", () => {
    for (const stderr of [undefined, "", "Killed\n", "log: Fatal Python error: quoted\n"])
      expect(crashReport(stderr)).toBeUndefined();
  });

  it("is bounded", () => {
    const long = `${REPORT}${"x".repeat(60_000)}`;
    expect(crashReport(long)!.traceback.length).toBeLessThan(17_000);
  });
});
