import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "smol-toml";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkConfigFile, resolveConfig } from "../config.js";
import { configure, readPairs } from "./configure.js";
import { listTemplates, readTemplate, renderTemplate, type Template } from "./template.js";

let parent: string;
let stateDir: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), "farloom-configure-"));
  stateDir = join(parent, "state");
});
afterEach(() => rmSync(parent, { recursive: true, force: true }));

/** An answer to every question that has no default. */
const answers = (template: Template): Record<string, string> =>
  Object.fromEntries(
    template.fields
      .filter((one) => one.fallback === undefined && !one.isOptional)
      .map((one) => [one.name, "abc123"]),
  );
/** An answer to every question there is. */
const ALL = { workers: "8", gpus: "2", memory: "16G", walltime: "1-00:00:00", nodes: "2", max_blocks: "3" };

describe("templates", () => {
  const templates = listTemplates();

  it("cover well-known machines, each with its source and date", () => {
    for (const machine of [
      "perlmutter-gpu",
      "frontera",
      "anvil",
      "delta",
      "expanse",
      "bridges-2",
      "lumi-g",
      "slurm",
    ])
      expect(templates.map((one) => one.name)).toContain(machine);
    for (const { source, date } of templates) {
      expect(URL.canParse(source)).toBe(true);
      expect(date).toMatch(/^\d{4}-\d\d-\d\d$/);
    }
  });

  it.each(templates.map((one) => [one.name, one] as const))(
    "%s is what the agent reads, with defaults and with all fields given",
    (_, template) => {
      const least = checkConfigFile(
        parse(renderTemplate(template, answers(template))) as Record<string, unknown>,
        stateDir,
      );
      if (template.name !== "laptop")
        expect(least.blocks).toMatchObject({ provider: "slurm", walltimeMs: 1_800_000 });
      const given = Object.fromEntries(
        template.fields.map(({ name }) => [name, (ALL as Record<string, string>)[name] ?? 'a"b\\c']),
      );
      const full = checkConfigFile(
        parse(renderTemplate(template, given)) as Record<string, unknown>,
        stateDir,
      );
      if (full.blocks)
        expect(full.blocks).toMatchObject({ nodesPerBlock: 2, maxBlocks: 3, walltimeMs: 86_400_000 });
      expect(renderTemplate(template, given)).not.toMatch(/\{\{/);
    },
  );

  it("name every field that is missing, and one that there is not", () => {
    const template = templates.find((one) => one.name === "delta")!;
    expect(() => renderTemplate(template, {})).toThrow(/needs:\n {2}--set account=…/);
    expect(() => renderTemplate(template, { account: "a", acount: "b" })).toThrow(
      /no field acount; there are account, /,
    );
  });

  it("of the wrong form are refused", () => {
    expect(() => readTemplate("x", "#! title: t\n")).toThrow("template x has no source");
    expect(() => readTemplate("x", "#! aks a: b\n")).toThrow("#! aks");
  });
});

describe("configure", () => {
  it("writes the file for its owner alone, and replaces one only when told to", async () => {
    const options = {
      stateDir,
      template: "delta",
      values: readPairs(["account=bbka-delta-cpu", "walltime=02:00:00"]),
    };
    const made = await configure({ ...options, force: false });
    expect(made.path).toBe(join(stateDir, "agent.toml"));
    expect(statSync(made.path).mode & 0o777).toBe(0o600);
    expect(resolveConfig({ stateDir }, {}).blocks).toMatchObject({
      walltimeMs: 7_200_000,
      providerOptions: { account: "bbka-delta-cpu", partition: "cpu" },
    });
    await expect(configure({ ...options, force: false })).rejects.toThrow(/is there already: --force/);
    await configure({ ...options, template: "laptop", values: {}, force: true });
    expect(readFileSync(`${made.path}.before`, "utf8")).toContain("bbka-delta-cpu");
  });

  it("writes nothing where a value cannot be used", async () => {
    const options = { stateDir, template: "slurm", force: false };
    await expect(configure({ ...options, values: { walltime: "30" } })).rejects.toThrow(
      /walltime in \[blocks\].*'30'/,
    );
    await expect(configure({ ...options, values: { gpus: "many" } })).rejects.toThrow(
      /gpus_per_node is "many"/,
    );
    expect(existsSync(join(stateDir, "agent.toml"))).toBe(false);
  });

  it("asks for what is not given, again where an answer must be, and takes defaults", async () => {
    const asked: string[] = [];
    const said = ["expanse", "", "abc123", "compute"];
    const terminal = {
      question: async (text: string) => {
        asked.push(text);
        return said.shift() ?? "";
      },
    };
    const { text } = await configure({ stateDir, values: { workers: "128" }, force: false, terminal });
    expect(asked[0]).toContain("perlmutter-gpu");
    expect(asked.filter((one) => one.startsWith("account:"))).toHaveLength(2);
    expect(asked.some((one) => one.startsWith("workers:"))).toBe(false);
    expect(text).toContain('partition = "compute"');
    expect(text).toContain("workers_per_node = 128");
    expect(text).not.toContain("worker_init");
  });

  it("gives way to a provider that an option or the environment names", () => {
    expect(resolveConfig({ stateDir, provider: "process" }, {}).blocks?.provider).toBe("process");
    expect(resolveConfig({ stateDir }, { FARLOOM_AGENT_PROVIDER: "slurm" }).blocks?.provider).toBe("slurm");
    expect(
      resolveConfig({ stateDir, provider: "local" }, { FARLOOM_AGENT_PROVIDER: "slurm" }).blocks,
    ).toBeUndefined();
  });

  it("takes pairs, and says what is none", () => {
    expect(readPairs(["a=b=c", "d="])).toEqual({ a: "b=c", d: "" });
    expect(() => readPairs(["account"])).toThrow("--set takes NAME=VALUE, not 'account'");
  });
});
