/** Real interpreters, virtual environments and lines of bash; containers and conda by their words alone: none is here. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { command, NodeHarness, PYTHON, python } from "../../../../../test/support/node-harness.js";
import { readIsolationConfig } from "../../isolation/config.js";
import { prepareIsolation } from "../../isolation/probe.js";
import { Sandbox } from "../../isolation/sandbox.js";
import { parseEnvironment, readEnvironments } from "./environment-config.js";
import { pythonStart } from "./environment-program.js";
import { infoOf, probePythons } from "./python-probe.js";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const place = { python: "python3", env: { PATH: "/bin" }, folders: ["/run/a", "/pay"] };
const only = (given: Record<string, unknown>) => readEnvironments({ environments: { x: given } }).named.x!;

describe("what a configuration says", () => {
  it.each([
    [{ environments: { "a b": {} } }, /a name has letters, digits/],
    [{ environments: { x: { pyton: "p" } } }, /\[environments.x\] in agent.toml: there is no option "pyton"/],
    [{ environments: { x: { venv: "rel" } } }, /venv is "rel", not an absolute path/],
    [{ environments: { x: { venv: "/v", conda: "c" } } }, /one of venv, conda and container/],
    [{ environments: { x: { modules: ["a;b"] } } }, /"a;b": that is no module's name/],
    [{ environments: { x: { container: "--privileged" } } }, /container is "--privileged", not an image/],
    [{ environments: { x: 3 } }, /is not a table/],
    [{ function_environments: 1 }, /not true or false/],
  ])("%j is refused by name", (file, message) => {
    expect(() => readEnvironments(file)).toThrow(message);
  });

  it("a function's own text is a path, a scheme, or a name", () => {
    expect(parseEnvironment("/opt/python")).toMatchObject({ python: "/opt/python" });
    expect(parseEnvironment("venv:/v")).toMatchObject({ venv: "/v" });
    expect(parseEnvironment("conda:cfd")).toMatchObject({ conda: "cfd" });
    expect(parseEnvironment("module:gcc/12  python")).toMatchObject({ modules: ["gcc/12", "python"] });
    expect(parseEnvironment("podman:ubuntu:24.04")).toMatchObject({
      container: "ubuntu:24.04",
      containerRuntime: "podman",
    });
    expect(parseEnvironment("torch")).toBeUndefined();
    expect(() => parseEnvironment("module:a;b")).toThrow(/no module's name/);
    expect(() => parseEnvironment("apptainer:--fakeroot")).toThrow(/not an image/);
  });
});

describe("how a Python starts", () => {
  it("in a container it sees the node's folders under their paths, and no shell reads a word", () => {
    const image = { container: "a b.sif", container_options: ["--nv"] };
    expect(pythonStart(only(image), place)).toEqual({
      words: ["apptainer", "exec", "--bind", "/run/a", "--bind", "/pay", "--nv", "a b.sif", "python3"],
      env: place.env,
    });
    const { words } = pythonStart(only({ ...image, container_runtime: "podman", python: "/py" }), place);
    expect(words.slice(-3)).toEqual(["--nv", "a b.sif", "/py"]);
    expect(words).toContain("--volume=/run/a:/run/a");
    expect(words).toContain("--env=FARLOOM_WORKER");
  });

  it("conda and modules are told by variables that a constant script reads", () => {
    const conda = pythonStart(only({ conda: "my $(env)" }), place);
    expect(conda.words.at(-1)).toBe("python");
    expect(conda.words.join(" ")).not.toContain("my");
    expect(conda.env).toMatchObject({ FARLOOM_CONDA: "my $(env)" });
    const modules = pythonStart(only({ modules: ["gcc/12", "py"] }), place);
    expect(modules.env).toMatchObject({ FARLOOM_MODULES: "gcc/12 py" });
    expect(modules.words.slice(0, 2)).toEqual(["bash", "-c"]);
    expect(modules.words[2]).toBe(conda.words[2]);
  });
});

describe("workers in environments", () => {
  let dir: string;
  let h: NodeHarness;
  const told = "import os, sys\ndef f():\n    return [sys.prefix, os.environ.get('LOADED'), os.getpid()]\n";
  const of = (interpreter: string) => python(told, { env: { interpreter } });

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "fl-e-"));
    execFileSync(PYTHON, ["-m", "venv", "--without-pip", join(dir, "venv")]);
    // A module system is a shell function that changes the environment: this one loads any module but `bad`.
    const init =
      'module() { [ "$2" != bad ] || { echo "no module bad" >&2; return 1; }; export LOADED="$2"; }\n';
    writeFileSync(join(dir, "init.sh"), init);
    const environments = readEnvironments({
      function_environments: true,
      environments: {
        venv: { venv: join(dir, "venv"), worker_init: "export LOADED=by-lines\ncat" },
        mod: { modules: ["gcc/12"], python: PYTHON },
        bad: { modules: ["bad"], python: PYTHON },
      },
    });
    const env = { ...process.env, MODULESHOME: dir, LMOD_PKG: "", BASH_ENV: join(dir, "init.sh") };
    h = await new NodeHarness({
      workers: 2,
      env,
      runtimes: { python: { default: PYTHON }, environments },
    }).start();
  });

  afterAll(async () => {
    await h[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  it("are the named interpreter, after its lines, and stay warm", async () => {
    const [prefix, loaded, pid] = (await h.call(of("venv"))).value as [string, string, number];
    expect([prefix, loaded]).toEqual([join(dir, "venv"), "by-lines"]);
    expect(((await h.call(of("venv"))).value as unknown[])[2]).toBe(pid);
    expect(((await h.call(python(told))).value as unknown[]).slice(0, 2)).not.toContain("by-lines");
  });

  it("have modules loaded; where one cannot be, the task says what was said", async () => {
    expect(((await h.call(of("mod"))).value as unknown[])[1]).toBe("gcc/12");
    const end = await h.call(of("bad"));
    expect([end.state, end.reason]).toEqual(["FAILED", "environment"]);
    expect(end.detail.stderr).toContain("no module bad");
  });

  it("run commands too", async () => {
    const end = await h.call(
      command({ argv: ["sh", "-c", "echo $LOADED"] }, { env: { interpreter: "mod" } }),
    );
    expect(end.value).toMatchObject({ stdout: "gcc/12\n" });
  });

  it("come after their lines where workers get but some of the variables", async () => {
    const config = readIsolationConfig({ isolation: "limits" });
    const { sandbox } = await prepareIsolation(config, PYTHON, { all: false });
    const named = { x: { python: PYTHON, worker_init: "export LOADED=by-lines" } };
    await using limited = await new NodeHarness({
      sandbox,
      runtimes: {
        python: { default: PYTHON },
        environments: readEnvironments({ environments: named }),
      },
    }).start();
    expect(((await limited.call(of("x"))).value as unknown[])[1]).toBe("by-lines");
  });

  it("are none of a node whose workers run in an image, which has another Python", async () => {
    const config = readIsolationConfig({ isolation: { level: "container", image: "no.sif" } });
    const means = {
      python: undefined,
      userNamespace: false,
      disableUserNamespaces: false,
      installations: [],
      becomes: undefined,
    };
    await using boxed = await new NodeHarness({
      sandbox: new Sandbox(config, means),
      runtimes: {
        python: { default: PYTHON },
        environments: readEnvironments({ environments: { x: { python: PYTHON } } }),
      },
    }).start();
    const end = await boxed.call(of("x"));
    expect([end.state, end.reason, end.detail.error?.type]).toEqual([
      "FAILED",
      "runtime_missing",
      "RuntimeMissing",
    ]);
    expect(end.detail.error!.message).toContain('no environment named "x"');
  });

  it("may be a function's own where the endpoint allows it, and not otherwise", async () => {
    expect(((await h.call(of(`venv:${join(dir, "venv")}`))).value as unknown[])[0]).toBe(join(dir, "venv"));
    expect(((await h.call(of(PYTHON))).value as unknown[])[0]).not.toBe(join(dir, "venv"));
    const strict = await new NodeHarness({
      runtimes: { python: { default: PYTHON }, environments: readEnvironments({}) },
    }).start();
    await using _ = strict;
    const end = await strict.call(of(PYTHON));
    expect([end.state, end.reason]).toEqual(["FAILED", "runtime_missing"]);
    expect(end.detail.error!.message).toContain("unless function_environments is set");
  });
});

describe("what an endpoint tells of its Pythons", () => {
  it("is version and packages of each that starts", async () => {
    const named = {
      good: { python: PYTHON, worker_init: "echo noise" },
      gone: { python: "/no/such/python" },
    };
    const pythons = await probePythons(readEnvironments({ environments: named }), {
      python: PYTHON,
      env: process.env,
    });
    expect(Object.keys(pythons).sort()).toEqual(["default", "good"]);
    expect(pythons.good).toMatchObject({ program: PYTHON, version: pythons.default!.version });
    expect(pythons.good!.packages).toEqual(pythons.default!.packages);
  });

  it("is nothing where what came is not what the probe prints", () => {
    expect(infoOf(undefined, "p")).toBeUndefined();
    expect(infoOf("hello", "p")).toBeUndefined();
    expect(infoOf('noise\n{"version": "3.11.2", "packages": {"cloudpickle": "3.0.0"}}', "p")).toEqual({
      version: "3.11.2",
      program: "p",
      packages: { cloudpickle: "3.0.0" },
      cloudpickle: "3.0.0",
    });
  });
});
