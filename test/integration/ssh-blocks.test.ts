// Blocks on another host through the system's ssh, with a real server on this one.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readOptions } from "../../apps/endpoint-agent/src/blocks/options.js";
import { REMOTE_COMMAND } from "../../apps/endpoint-agent/src/blocks/ssh/remote-command.js";
import { SSH_OPTIONS } from "../../apps/endpoint-agent/src/blocks/ssh/ssh-options.js";
import { SshProvider } from "../../apps/endpoint-agent/src/blocks/ssh/ssh-provider.js";
import { processesWith } from "../support/fabric.js";
import { sshMissing, startSshd, type TestSshd } from "../support/sshd.js";

const title = sshMissing === undefined ? "" : ` (skipped: ${sshMissing} is not installed)`;
/** As built: what a program of its own imports. */
const BLOCKS = join(import.meta.dirname, "../../apps/endpoint-agent/dist/blocks");
const PATIENCE = { timeout: 30_000 };

describe.skipIf(sshMissing !== undefined)(`blocks through ssh${title}`, () => {
  let sshd: TestSshd;
  let home: string;

  beforeAll(async () => {
    home = mkdtempSync(join(tmpdir(), "farloom-blocks-"));
    sshd = await startSshd();
  });
  afterAll(async () => {
    await sshd?.stop();
    rmSync(home, { recursive: true, force: true });
  });

  function provider(given: Record<string, unknown> = {}): SshProvider {
    const common = { port: sshd.port, identity_file: sshd.identityFile, ssh_options: sshd.sshOptions };
    const options = readOptions(SSH_OPTIONS, { hosts: ["127.0.0.1"], ...common, ...given }, "[ssh]");
    return new SshProvider({ options, logDir: join(home, "logs") });
  }

  /** A node program that copies its parameters to a file, with its arguments, and then does as it is told. */
  function request(act: string, parameters = "{}", words: readonly string[] = []) {
    const place = mkdtempSync(join(home, "block-"));
    const parametersFile = join(place, "parameters");
    writeFileSync(parametersFile, parameters, { mode: 0o600 });
    const out = join(place, "out");
    const program = `for last; do :; done; printf '%s\\0' "$@" > "$0.words"; cp "$last" "$0"; ${act}`;
    const command = ["/bin/sh", "-c", program, out, ...words];
    return { nodes: 1, workersPerNode: 1, command, parametersFile, out };
  }

  it("a node runs on the host with its parameters until it is cancelled, and leaves nothing there", async () => {
    const ssh = provider();
    const asked = request("echo here; exec sleep 600", JSON.stringify({ secret: "s3cret" }));
    const id = await ssh.submit(asked);
    await expect
      .poll(() => ssh.status([id]), PATIENCE)
      .toEqual([{ id, state: "running", nodes: ["127.0.0.1"] }]);
    await expect.poll(() => readFileSync(asked.out, "utf8"), PATIENCE).toBe('{"secret":"s3cret"}');
    // What anybody on this machine can see names no parameter.
    expect(processesWith(REMOTE_COMMAND)).not.toEqual([]);
    expect(processesWith("s3cret")).toEqual([]);
    await expect(ssh.submit(request("exit 0"))).rejects.toThrow("0 are free");
    const [, there] = /^(.*)\/parameters$/.exec(
      readFileSync(`${asked.out}.words`, "utf8").split("\0").at(-2)!,
    )!;
    await ssh.cancel([id, id]);
    await expect
      .poll(() => ssh.status([id]), PATIENCE)
      .toEqual([{ id, state: "ended", detail: "cancelled" }]);
    await expect.poll(() => processesWith(asked.out), PATIENCE).toEqual([]);
    await expect.poll(() => existsSync(there!), PATIENCE).toBe(false);
    expect(readFileSync(join(home, "logs", `${id}.log`), "utf8")).toMatch(/^here\n/);
  });

  it("any word of the command and any byte of the parameters arrives as it is, and no shell reads it", async () => {
    const words = ["a b", "$(touch pwned)", "`id`", "'\"\\", "ü 漢字 🧵", "-x", "", "!!", "%s"];
    const parameters = `\n'"$(id)\\ 🧵${"x".repeat(100_000)}`;
    const ssh = provider();
    const asked = request("exit 0", parameters, words);
    const id = await ssh.submit(asked);
    await expect
      .poll(() => ssh.status([id]), PATIENCE)
      .toEqual([{ id, state: "ended", detail: "its nodes ended" }]);
    expect(readFileSync(asked.out, "utf8")).toBe(parameters);
    expect(readFileSync(`${asked.out}.words`, "utf8").split("\0").slice(0, words.length)).toEqual(words);
  });

  it("a block that fails says why, in the words of the node or of ssh", async () => {
    const ssh = provider();
    const broken = await ssh.submit(request("echo 'no such module' >&2; exit 3"));
    await expect
      .poll(() => ssh.status([broken]), PATIENCE)
      .toEqual([
        {
          id: broken,
          state: "failed",
          detail: "the node on 127.0.0.1 ended with status 3; its log ends: no such module",
        },
      ]);
    const stranger = provider({ ssh_options: ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"] });
    const refused = await stranger.submit(request("exit 0"));
    await expect
      .poll(() => stranger.status([refused]), PATIENCE)
      .toEqual([
        { id: refused, state: "failed", detail: expect.stringContaining("Host key verification failed") },
      ]);
    expect(await ssh.status(["other"])).toEqual([{ id: "other", state: "unknown" }]);
  });

  it("a node ends with the agent that asked for it, also one that was killed", async () => {
    const asked = request('export MARK="$0"; exec sleep 600');
    const given = {
      port: sshd.port,
      identity_file: sshd.identityFile,
      ssh_options: sshd.sshOptions,
      hosts: ["127.0.0.1"],
    };
    const program = `
      const { readOptions } = await import(${JSON.stringify(join(BLOCKS, "options.js"))});
      const { SSH_OPTIONS } = await import(${JSON.stringify(join(BLOCKS, "ssh/ssh-options.js"))});
      const { SshProvider } = await import(${JSON.stringify(join(BLOCKS, "ssh/ssh-provider.js"))});
      const options = readOptions(SSH_OPTIONS, ${JSON.stringify(given)}, "[ssh]");
      await new SshProvider({ options, logDir: ${JSON.stringify(join(home, "logs"))} }).submit(${JSON.stringify(asked)});`;
    const agent = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: "inherit" });
    const nodes = () => processesWith(asked.out).filter(({ command }) => command.startsWith("sleep"));
    try {
      await expect.poll(nodes, PATIENCE).toHaveLength(1);
    } finally {
      agent.kill("SIGKILL");
    }
    await expect.poll(nodes, PATIENCE).toEqual([]);
  });

  it("a block ends with its walltime", async () => {
    const ssh = provider();
    const asked = request("exec sleep 600");
    const id = await ssh.submit({ ...asked, walltimeMs: 1_000 });
    await expect.poll(() => ssh.status([id]), PATIENCE).toEqual([{ id, state: "ended", detail: "walltime" }]);
    await expect.poll(() => processesWith(asked.out), PATIENCE).toEqual([]);
  });

  it.each([
    [{ hosts: ["-oProxyCommand=id"] }, /no name of a host/],
    [{ hosts: undefined }, /hosts is missing/],
    [{ user: "-x" }, /user is "-x", not a name/],
    [{ ssh_options: ["RemoteCommand=id"] }, /the provider sets it itself/],
    [{ ssh_options: ["-v"] }, /write it as Name=value/],
  ])("%j is refused", (given, message) => {
    expect(() => provider(given)).toThrow(message);
  });
});
