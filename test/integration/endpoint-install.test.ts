/**
 * `farloom endpoint` on a machine that becomes one: real processes with a HOME of their own against a fake service, through
 * a real CONNECT proxy, kept by a real tmux and a real cron.
 *
 * What brings an agent back is forced in every test: the best there is would be this machine's own crontab.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import { fileURLToPath } from "node:url";
import { TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ConnectProxy } from "../support/connect-proxy.js";
import { FakeService } from "../support/fake-service.js";

/** The agent's own program: `farloom endpoint` hands on to it, which a test of its own shows. */
const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const FARLOOM = fileURLToPath(new URL("../../packages/cli/bin/farloom.js", import.meta.url));
/** Without what a person's own PATH has besides: each Python on it is asked for its version. */
const PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
const has = (program: string): boolean =>
  spawnSync("sh", ["-c", `command -v ${program}`], { env: { PATH } }).status === 0;
const canHaveCron =
  ["cron", "crontab", "unshare"].every(has) &&
  spawnSync("unshare", ["--mount", "mount", "-t", "tmpfs", "tried", "/mnt"]).status === 0;

let service: FakeService;
let home: string;
let stateDir: string;
let env: Record<string, string>;
const cleanup: (() => void | Promise<void>)[] = [];

beforeEach(async () => {
  service = await FakeService.start();
  home = mkdtempSync(join(tmpdir(), "farloom-home-"));
  stateDir = join(home, ".farloom", "agent");
  env = {
    PATH,
    HOME: home,
    TMUX_TMPDIR: home,
    TMPDIR: home,
    FARLOOM_AGENT_WORKERS: "1",
    FARLOOM_AGENT_DRAIN_MS: "500",
    FARLOOM_AGENT_STOP_WORKERS: "1",
  };
});
afterEach(async () => {
  if (existsSync(stateDir)) await farloom("uninstall", "--within", "1s");
  for (const step of cleanup.splice(0).reverse()) await step();
  await service.close();
  rmSync(home, { recursive: true, force: true });
});

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** `farloom endpoint …`, as the agent's program takes it. */
function farloom(command: string, ...args: string[]): Promise<Ran> {
  if (command === "enroll") return run([MAIN, "setup", ...args]);
  return run([MAIN, command, ...args, ...(command === "status" ? ["--text"] : [])]);
}

function run(args: readonly string[]): Promise<Ran> {
  const child = spawn(process.execPath, args, { env, cwd: home, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })));
}

/** As a person does it: the code in the environment. */
function enroll(survive: string, url = service.url): Promise<Ran> {
  env.FARLOOM_ENROLMENT_CODE = "good-code";
  return farloom("enroll", "--service", url, "--survive", survive).finally(() => {
    delete env.FARLOOM_ENROLMENT_CODE;
  });
}

const json = <T>({ stdout }: Ran): T => JSON.parse(stdout) as T;

interface Status {
  readonly running: boolean;
  readonly survive: string;
  readonly stopped: boolean;
  readonly latencyMs?: number;
  readonly status?: { readonly pid: number };
}
const status = async (): Promise<Status> => json<Status>(await farloom("status", "--json"));

async function connectedAgain(connections: number): Promise<void> {
  await service.until(
    () => service.hellos.length > connections && service.connected,
    "the agent is connected again",
    60_000,
  );
}

it("farloom endpoint hands on to the agent's program: options, output and exit code", async () => {
  env.FARLOOM_ENROLMENT_CODE = "good-code";
  const endpoint = (...args: string[]): Promise<Ran> => run([FARLOOM, "endpoint", ...args]);
  const made = await endpoint(
    "enroll",
    "--service",
    service.url,
    "--survive",
    "none",
    "--no-checks",
    "--python",
    "python3",
    "--json",
  );
  expect(made.code).toBe(0);
  expect(readFileSync(join(stateDir, "launch.sh"), "utf8")).toMatch(
    /^export FARLOOM_AGENT_PYTHON='?python3'?$/m,
  );
  expect(json(made)).toMatchObject({ name: "cluster", stateDir, checks: [], survive: { method: "none" } });
  expect(
    await endpoint("configure", "--template", "slurm", "--set", "account=lab", "--set", "workers=2"),
  ).toMatchObject({ code: 0, stdout: expect.stringContaining("farloom endpoint trust add KEY") });
  expect(readFileSync(join(stateDir, "agent.toml"), "utf8")).toContain('account = "lab"');
  expect(await endpoint("configure", "--template", "slurm")).toMatchObject({ code: 7, stdout: "" });
  expect((await endpoint("logs", "--json")).code).toBe(3);
  // What a start is told of trust the agent hears, or there would be none.
  const mistrusted = await endpoint("start", "--trust", "sometimes");
  expect([mistrusted.code, mistrusted.stderr]).toEqual([
    1,
    expect.stringContaining("option trust is 'sometimes', not one of enforce"),
  ]);
}, 120_000);

describe("farloom endpoint", () => {
  it("checks, enrols and starts through a proxy that lets nothing but port 443 out, and works through it", async () => {
    const tls = await tlsInFrontOf(service.port);
    const proxy = await ConnectProxy.open({ "service.farloom.test": tls.port });
    cleanup.push(() => proxy.close());
    service.publicUrl = "https://service.farloom.test";
    env.NODE_EXTRA_CA_CERTS = tls.certFile;
    const without = await enroll("none", service.publicUrl);
    expect(without.code).toBe(5);
    expect(without.stdout).toMatch(/✗ service: .*cannot be reached directly[\s\S]*nothing was changed/);
    env.HTTPS_PROXY = proxy.url.replace("http://", "ann:hunter2@");
    const { code, stdout, stderr } = await enroll("none", service.publicUrl);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(
      /✓ service: https:\/\/service\.farloom\.test is ready, through the proxy http:\/\/\*\*\*@127/,
    );
    expect(stdout).toMatch(/✓ link: WebSockets pass\n✓ clock: agrees/);
    expect(stdout).not.toContain("hunter2");
    expect(await farloom("start")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/Endpoint cluster is connected/),
    });
    await service.until(() => service.roomTasks > 0, "credit", 20_000);
    const [key] = service.sendTasks([{}]);
    await service.until(() => service.results.length === 1, "the result", 30_000);
    expect(service.resultOf(key!)).toMatchObject({ state: TERMINAL_STATES.SUCCEEDED });
    // Nothing went past the proxy, and through it went nothing but tunnels.
    expect(new Set(proxy.asked)).toEqual(new Set(["service.farloom.test:443"]));
  }, 120_000);

  it.skipIf(!has("tmux"))(
    "in tmux comes back after kill -9, stays stopped when stopped, and leaves no trace (skipped: needs tmux)",
    async () => {
      const enrolled = await enroll("tmux");
      expect(enrolled).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/kept by a tmux session.*no reboot[\s\S]*It is connected/),
      });
      const first = await status();
      expect(first).toMatchObject({ running: true, survive: "tmux", latencyMs: expect.any(Number) });
      const launcher = join(stateDir, "launch.sh");
      expect(statSync(launcher).mode & 0o777).toBe(0o700);
      process.kill(first.status!.pid, "SIGKILL");
      await connectedAgain(service.hellos.length);

      expect(json(await farloom("restart", "--json"))).toMatchObject({ restarted: true, connected: true });
      expect(json(await farloom("drain", "--within", "5s", "--json"))).toEqual({ drained: true });
      // As cron's watchdog does it: what was stopped on purpose stays so.
      execFileSync("/bin/sh", [launcher, "start", "--watch"], { env });
      expect(await status()).toMatchObject({ running: false, stopped: true });

      await farloom("start");
      expect(await farloom("start")).toMatchObject({
        code: 7,
        stderr: expect.stringMatching(/runs already: process \d+/),
      });
      expect(await farloom("uninstall", "--purge")).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/stopped\.\nIt is taken out of tmux\./),
      });
      expect(spawnSync("tmux", ["ls"], { env }).status).not.toBe(0);
      expect(existsSync(stateDir)).toBe(false);
    },
    90_000,
  );

  it.skipIf(!canHaveCron)(
    "with cron is there after a boot (skipped: needs root, cron and unshare)",
    async () => {
      // A mount namespace in which crontabs and /run are this test's own: no line reaches the machine's cron, and cron takes
      // its start for a boot.
      const script = `
      set -e
      mount --make-rprivate /
      mount -t tmpfs crontabs /var/spool/cron/crontabs
      mount -t tmpfs run /run
      "$NODE" "$MAIN" setup --service "$URL" --survive cron --no-checks --json || exit 1
      crontab -l >"$HOME/crontab"
      "$NODE" "$MAIN" stop --json
      rm "$HOME/.farloom/agent/stopped"
      cron -f &
      while ! [ -e "$HOME/done" ]; do sleep 0.2; done
      "$NODE" "$MAIN" uninstall --json
      kill $!
      crontab -l >"$HOME/crontab.after" 2>&1 || true
    `;
      const child = spawn("unshare", ["--mount", "sh", "-c", script], {
        env: { ...env, NODE: process.execPath, MAIN, URL: service.url, FARLOOM_ENROLMENT_CODE: "good-code" },
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = new Promise((resolve) => child.once("close", resolve));
      let stdout = "";
      child.stdout.on("data", (chunk) => {
        stdout += chunk;
      });
      // Once by enroll itself, and once by cron's @reboot.
      await connectedAgain(1);
      writeFileSync(join(home, "done"), "");
      expect(await ended).toBe(0);
      const [enrolled, stopped, uninstalled] = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      expect(enrolled.survive).toMatchObject({ method: "cron" });
      expect(stopped).toEqual({ stopped: true });
      expect(uninstalled).toMatchObject({ stopped: true, undone: "cron" });
      expect(readFileSync(join(home, "crontab"), "utf8")).toMatch(/^@reboot .*launch\.sh' start --watch/m);
      expect(readFileSync(join(home, "crontab.after"), "utf8")).toMatch(/no crontab/);
    },
    90_000,
  );

  it("enrols nothing where a check fails, and refuses a second identity and what is not there", async () => {
    mkdirSync(stateDir, { recursive: true });
    chmodSync(stateDir, 0o755);
    const failed = await enroll("none");
    expect(failed).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(/✗ permissions: .*mode 755\n {4}→ .*chmod 700/),
    });
    expect(service.publicKey).toBeUndefined();
    chmodSync(stateDir, 0o700);
    expect((await enroll("none")).code).toBe(0);
    expect(await enroll("none")).toMatchObject({
      code: 7,
      stderr: expect.stringMatching(/enrolled already, as endpoint cluster/),
    });
    expect(await farloom("logs")).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/there is no log/),
    });
    expect(await farloom("stop", "--within", "soon")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/--within takes a time/),
    });
    const badCode = join(home, "bad-code");
    writeFileSync(badCode, "bad\n");
    const bad = await farloom(
      "enroll",
      "--service",
      service.url,
      "--code-file",
      badCode,
      "--state-dir",
      join(home, "other"),
      "--survive",
      "none",
      "--no-checks",
      "--json",
    );
    expect([bad.code, JSON.parse(bad.stderr)]).toEqual([
      4,
      { error: { message: expect.stringContaining("unknown") } },
    ]);
  }, 120_000);

  it("doctor names a cure for each thing that is wrong, and bugreport holds it all but no secret", async () => {
    await enroll("none");
    writeFileSync(
      join(stateDir, "agent.toml"),
      'provider = "process"\n[blocks]\nworker_init = "export HF_TOKEN=canary-one"\nwalltime = "30"\n',
    );
    writeFileSync(
      join(stateDir, "agent.log"),
      '{"level":30,"time":1,"msg":"Bearer canary-two"}\n{"level":30,"time":2,"msg":"the end"}\n',
    );
    mkdirSync(join(stateDir, "journal"), { recursive: true });
    writeFileSync(join(stateDir, "journal", "0000000001.journal"), "FARLOOMJ and no more");
    env.HTTPS_PROXY = "http://u:canary-three@proxy:1";
    env.FARLOOM_API_KEY = "canary-four";
    const { code, stdout } = await farloom("doctor", "--json");
    const checks = JSON.parse(stdout) as { name: string; state: string; detail: string; cure?: string }[];
    const of = (name: string) => checks.find((one) => one.name === name);
    expect(code).toBe(1);
    expect(of("identity")).toMatchObject({ state: "ok", detail: expect.stringMatching(/cluster of ada/) });
    expect(of("configuration")).toMatchObject({
      state: "failed",
      detail: expect.stringMatching(/walltime/),
      cure: expect.stringMatching(/configure --force/),
    });
    expect(of("journal")).toMatchObject({ state: "warning", detail: expect.stringMatching(/damaged/) });
    expect(of("agent")).toMatchObject({ state: "failed", cure: "farloom endpoint start" });
    expect(of("survival")).toMatchObject({ state: "warning" });
    for (const check of checks.filter((one) => one.state === "failed"))
      expect(check.cure, check.name).toBeTruthy();
    const logs = await farloom("logs", "-n", "1");
    expect([logs.code, logs.stdout.includes("the end"), logs.stdout.includes("Bearer")]).toEqual([
      0,
      true,
      false,
    ]);

    const report = json<{ path: string }>(await farloom("bugreport", "-o", "report.tar.gz", "--json"));
    const out = join(home, "unpacked");
    mkdirSync(out);
    execFileSync("tar", ["-xzf", report.path, "-C", out]);
    const text = execFileSync("sh", ["-c", `cat ${out}/farloom-bugreport/*`], { encoding: "utf8" });
    expect(text).not.toMatch(/canary/);
    expect(text).not.toContain(readFileSync(join(stateDir, "private-key.pem"), "utf8").split("\n")[1]);
    for (const part of [
      'provider = "process"',
      "the end",
      "✗ configuration",
      "farloom-endpoint-agent/",
      "0b6a3f0e",
    ])
      expect(text).toContain(part);
  }, 120_000);
});

/** TLS on a port of its own, under a certificate that nobody knows but by its file. */
async function tlsInFrontOf(port: number): Promise<{ port: number; certFile: string }> {
  const certFile = join(home, "cert.pem");
  const keyFile = join(home, "key.pem");
  const subject = ["-subj", "/CN=service.farloom.test", "-addext", "subjectAltName=DNS:service.farloom.test"];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", keyFile];
  execFileSync("openssl", ["req", "-x509", ...key, "-out", certFile, "-days", "2", ...subject], {
    stdio: "ignore",
  });
  const server = createTlsServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (near) => {
    const far = connect(port, "127.0.0.1");
    near.pipe(far).pipe(near);
    near.on("error", () => far.destroy()).on("close", () => far.destroy());
    far.on("error", () => near.destroy()).on("close", () => near.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanup.push(() => new Promise<void>((resolve) => server.close(() => resolve())));
  return { port: (server.address() as AddressInfo).port, certFile };
}
