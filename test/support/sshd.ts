/**
 * A real ssh server on a free loopback port, with host key and user key of its own; it lets in who runs the test. Where
 * none is installed (Debian: apt-get install openssh-server), `sshMissing` names what is not there.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { accessSync, constants, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { freePort } from "./fabric.js";

const FOLDERS = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
const START_MS = 30_000;

function pathOf(program: string): string | undefined {
  return FOLDERS.map((folder) => join(folder, program)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The first program that is not installed, or undefined where all are. */
export const sshMissing = ["sshd", "ssh", "ssh-keygen"].find((program) => pathOf(program) === undefined);

export interface TestSshd {
  readonly port: number;
  readonly identityFile: string;
  /** Trust the server's key, and no configuration of whoever runs the test. */
  readonly sshOptions: readonly string[];
  readonly home: string;
  stop(): Promise<void>;
}

export async function startSshd(): Promise<TestSshd> {
  const home = mkdtempSync(join(tmpdir(), "farloom-sshd-"));
  const at = (name: string) => join(home, name);
  for (const name of ["host", "user"]) {
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", at(name)]);
  }
  const port = await freePort();
  writeFileSync(at("authorized"), readFileSync(at("user.pub")), { mode: 0o600 });
  writeFileSync(at("known"), `[127.0.0.1]:${port} ${readFileSync(at("host.pub"), "utf8")}`);
  const settings = [
    `Port ${port}`,
    "ListenAddress 127.0.0.1",
    `HostKey ${at("host")}`,
    `AuthorizedKeysFile ${at("authorized")}`,
    "PidFile none",
    "UsePAM no",
    "PasswordAuthentication no",
    "PermitRootLogin prohibit-password",
    // The temporary folder is open to all, as it should be.
    "StrictModes no",
    `AllowUsers ${userInfo().username}`,
  ];
  writeFileSync(at("config"), `${settings.join("\n")}\n`);
  // Started by root it wants this folder, which a system makes at its own start.
  if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  // By its full path: it runs itself again for each connection.
  const child = spawn(pathOf("sshd")!, ["-D", "-e", "-f", at("config")], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let words = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    words = (words + text).slice(-4000);
  });
  await untilListening(child, port, () => words);
  return {
    port,
    identityFile: at("user"),
    sshOptions: [
      `UserKnownHostsFile=${at("known")}`,
      "StrictHostKeyChecking=yes",
      "GlobalKnownHostsFile=none",
    ],
    home,
    async stop() {
      const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      if (child.exitCode === null) child.kill("SIGTERM");
      else return;
      await exited;
      rmSync(home, { recursive: true, force: true });
    },
  };
}

async function untilListening(child: ChildProcess, port: number, words: () => string): Promise<void> {
  const giveUpAtMs = performance.now() + START_MS;
  for (;;) {
    const isThere = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1", () => resolve(true));
      socket.once("error", () => resolve(false)).once("connect", () => socket.destroy());
    });
    if (isThere) return;
    if (performance.now() > giveUpAtMs || child.exitCode !== null)
      throw new Error(`sshd did not start: ${words()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
