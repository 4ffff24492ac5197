/**
 * The node of a block on one host: one ssh process, whose standard input keeps the node alive.
 *
 *     connecting ──► running ──► over
 *          └─────────────────────►
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { REMOTE_COMMAND, STARTED } from "./remote-command.js";
import type { SshOptions } from "./ssh-options.js";

/** The host has ended its node by then (remote-command.ts); a link that is gone needs no more patience. */
const STOP_MS = 15_000;
/** ssh itself found no way to the host, or lost it. */
const SSH_FAILED = 255;

export type SessionPhase =
  | { readonly name: "connecting" }
  | { readonly name: "running" }
  | { readonly name: "over"; readonly detail: string; readonly isWell: boolean };

export class SshSession {
  readonly host: string;
  readonly #child: ChildProcess;
  #phase: SessionPhase = { name: "connecting" };
  #isStopping = false;

  /** `input` is what the host reads first; `logFile` takes what ssh and the node print. */
  constructor(host: string, options: SshOptions, input: Buffer, logFile: string) {
    this.host = host;
    const log = openSync(logFile, "a", 0o600);
    this.#child = spawn("ssh", sshArguments(host, options), { cwd: "/", stdio: ["pipe", "pipe", log] });
    closeSync(log);
    this.#child.once("error", (error) => this.#end(`ssh cannot be run: ${error.message}`, false));
    this.#child.once("exit", (status, signal) => this.#onExit(status, signal));
    // A host that goes away while it is written to is told by ssh's end.
    this.#child.stdin?.on("error", () => undefined);
    this.#child.stdin?.write(input);
    this.#watchOutput();
  }

  get phase(): SessionPhase {
    return this.#phase;
  }

  /** Asks the node to end; idempotent. */
  stop(): void {
    if (this.#isStopping || this.#phase.name === "over") return;
    this.#isStopping = true;
    this.#child.stdin?.end();
    setTimeout(() => this.#child.kill("SIGKILL"), STOP_MS).unref();
  }

  #watchOutput(): void {
    // Before the line that is waited for, a login shell may greet; as much of that as fits here is enough.
    let text = "";
    this.#child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      if (this.#phase.name !== "connecting") return;
      text = (text + chunk).slice(-4096);
      if (text.includes(`${STARTED}\n`)) this.#phase = { name: "running" };
    });
  }

  #onExit(status: number | null, signal: NodeJS.Signals | null): void {
    if (this.#isStopping || status === 0) {
      this.#end(`the node on ${this.host} ended`, true);
    } else if (status === SSH_FAILED) {
      this.#end(`ssh could not reach ${this.host}, or lost it`, false);
    } else {
      this.#end(`the node on ${this.host} ended with ${signal ?? `status ${status}`}`, false);
    }
  }

  #end(detail: string, isWell: boolean): void {
    this.#phase = { name: "over", detail, isWell };
  }
}

function sshArguments(host: string, options: SshOptions): string[] {
  const own = [
    // Nobody is there to type a password or to trust a host.
    "BatchMode=yes",
    "ConnectTimeout=30",
    // A link that is gone is seen within a minute.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    // A connection that is shared with others would end with them.
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    ...(options.identityFile === undefined ? [] : ["IdentitiesOnly=yes"]),
    ...options.sshOptions,
  ];
  return [
    "-T",
    ...own.flatMap((option) => ["-o", option]),
    ...(options.user === undefined ? [] : ["-l", options.user]),
    ...(options.port === undefined ? [] : ["-p", String(options.port)]),
    ...(options.identityFile === undefined ? [] : ["-i", options.identityFile]),
    "--",
    host,
    REMOTE_COMMAND,
  ];
}
