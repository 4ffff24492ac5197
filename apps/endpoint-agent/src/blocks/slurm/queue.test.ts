/** What Slurm prints, as versions 22 to 24 print it, and what is no job of this endpoint. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expandHostList } from "./host-list.js";
import { blockStateOf } from "./job-state.js";
import { describeJob } from "./job-status.js";
import { parseAccounting, parseQueue } from "./queue.js";

describe("the answer of squeue", () => {
  it("jobs of this endpoint are read, whatever the user's other jobs are called", () => {
    const output = [
      "7|RUNNING|None|n[1-2]|1795447090|0|farloom-e-b1|",
      "8|PENDING|Resources||1795448000|2|farloom-e-b2|",
      "9|PENDING|Priority||N/A|0|a|b|farloom-e-b1|",
      "10|RUNNING|None|n1|1795447090|0|farloom-e2-b1|",
      "slurm_load_jobs error: something",
      "",
    ].join("\n");
    expect([...parseQueue(output, "farloom-e-").values()].flat()).toEqual([
      {
        jobId: "7",
        name: "farloom-e-b1",
        state: "RUNNING",
        reason: "",
        nodeList: "n[1-2]",
        startMs: 1795447090000,
        restarts: 0,
      },
      {
        jobId: "8",
        name: "farloom-e-b2",
        state: "PENDING",
        reason: "Resources",
        nodeList: "",
        startMs: 1795448000000,
        restarts: 2,
      },
    ]);
  });

  it("no text makes the reader fail", { timeout: 60_000 }, () => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => void parseQueue(text, "f")));
  });
});

it("accounting tells of the latest job of a name", () => {
  const output = "3|NODE_FAIL|None|n1|1795447090\n3|CANCELLED by 1000|None|None assigned|Unknown\n";
  expect(parseAccounting(output, "f")).toEqual({
    found: "job",
    row: { jobId: "3", name: "f", state: "CANCELLED by 1000", reason: "", nodeList: "", restarts: 0 },
  });
  expect(parseAccounting("", "f")).toEqual({ found: "none" });
});

it("a state that Slurm has and this page has not is unknown, never over", () => {
  expect(blockStateOf("CANCELLED by 1000")).toBe("ended");
  expect(blockStateOf("SOMETHING_NEW")).toBe("unknown");
  expect(blockStateOf("constructor")).toBe("unknown");
});

it("a job that waits for what will never come says so", () => {
  const row = {
    jobId: "1",
    name: "f",
    state: "PENDING",
    reason: "QOSMaxJobsPerUserLimit",
    nodeList: "",
    restarts: 0,
  };
  expect(describeJob("b", row).detail).toBe(
    "job 1 waits: QOSMaxJobsPerUserLimit (a limit of the account or qos is reached)",
  );
});

describe("lists of nodes", () => {
  it.each([
    ["n1", ["n1"]],
    ["n[1-3,7],login", ["n1", "n2", "n3", "n7", "login"]],
    ["gpu[009-011]x", ["gpu009x", "gpu010x", "gpu011x"]],
    ["r[1-2]c[1-2]", ["r1c1", "r1c2", "r2c1", "r2c2"]],
    ["n[1-99999999]", undefined],
    ["n[1", undefined],
    ["n 1", undefined],
  ])("%s", (text, hosts) => expect(expandHostList(text)).toEqual(hosts));

  it("no text makes the reader fail, or answer without end", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."n[]-,019") }), (text) => void expandHostList(text)),
    );
  });
});
