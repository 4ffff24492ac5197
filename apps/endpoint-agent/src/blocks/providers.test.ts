import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, describe, expect, it } from "vitest";
import { writtenName } from "./options.js";
import { makeProvider, PROVIDERS } from "./providers.js";

const logDir = mkdtempSync(join(tmpdir(), "fl-providers-"));
afterAll(() => rmSync(logDir, { recursive: true, force: true }));

describe("the providers", () => {
  const make = (name: string, options: Record<string, unknown>) =>
    makeProvider(name, { options, endpointId: "e1", logDir, log: pino({ level: "silent" }) });

  it("each is made from its table of the configuration, and goes by its name", () => {
    const given: Record<string, Record<string, unknown>> = {
      slurm: { partition: "gpu", scheduler_options: ["--nice=5"] },
      ssh: { hosts: ["node1", "node2"] },
    };
    for (const name of Object.keys(PROVIDERS)) expect(make(name, given[name] ?? {}).name).toBe(name);
  });

  it("what is wrong is told with the place where it stands, and what may stand there", () => {
    expect(() => make("slrum", {})).toThrow(
      "provider in agent.toml is 'slrum'; there are local, process, slurm, ssh",
    );
    expect(() => make("constructor", {})).toThrow("there are local, process, slurm, ssh");
    expect(() => make("slurm", { queue: "gpu" })).toThrow(
      '[slurm] in agent.toml: there is no option "queue"; there are partition, account, qos',
    );
    expect(() => make("ssh", {})).toThrow("[ssh] in agent.toml: hosts is missing. Hosts that blocks may use");
  });

  it("every option stands in the page for people, and no other", () => {
    const page = readFileSync(new URL("../../../../docs/providers.md", import.meta.url), "utf8");
    for (const [name, { options }] of Object.entries(PROVIDERS)) {
      const section = page.split(/^## /m).find((text) => text.startsWith(`\`${name}\``));
      const told = [...section!.split(/^### /m)[0]!.matchAll(/^\| `(\w+)`/gm)].map(([, option]) => option);
      expect(told, name).toEqual(Object.keys(options).map(writtenName));
    }
  });
});
