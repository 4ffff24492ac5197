/**
 * One real process of the fabric: started, killed, paused and started again at the same address, as an operator
 * and a supervisor (systemd, say) would.
 *
 *   M1  A killed process is known to be dead before anything else is done.
 *   M2  A process that ends by itself is told of (`onEnd`) and, like under a supervisor, started again.
 *   M3  Its output goes straight into a file: nobody has to read it while everything breaks.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const START_MS = 120_000;
/** Beyond every drain. */
const STOP_MS = 20_000;
const RESTART_PAUSE_MS = 500;

export class Member {
  name;
  /** @type {import("node:child_process").ChildProcess | undefined} */
  child;
  starts = 0;
  /** Whether it should be running: a supervisor's wish. */
  wanted = false;
  isPaused = false;
  /** For its next start only. */
  envOnce = {};
  #options;
  #exited = Promise.resolve();

  /**
   * @param {string} name
   * @param {{command?: string, args: () => string[], env: () => Record<string, string>, logFile: string, ready?: (member: Member) => Promise<boolean>, onEnd?: (end: {code: number | null, signal: string | null, tail: string}) => void, restart?: boolean, ipc?: boolean}} options
   */
  constructor(name, options) {
    this.name = name;
    this.#options = options;
  }

  get pid() {
    return this.child?.pid;
  }

  get isUp() {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  get exited() {
    return this.#exited;
  }

  /** Starts it; resolves once it is ready, or where `waits` is false at once. */
  async start({ waits = true } = {}) {
    this.wanted = true;
    if (!this.isUp) this.#spawn();
    if (waits) await this.untilReady();
  }

  #spawn() {
    const { command = process.execPath, args, env, logFile, ipc = false } = this.#options;
    const log = openSync(logFile, "a");
    const once = this.envOnce;
    this.envOnce = {};
    const child = spawn(command, args(), {
      stdio: ["ignore", log, log, ...(ipc ? /** @type {["ipc"]} */ (["ipc"]) : [])],
      env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "", ...env(), ...once },
    });
    closeSync(log);
    this.child = child;
    this.starts++;
    this.isPaused = false;
    this.#exited = new Promise((resolve) => {
      child.once("error", () => resolve(undefined));
      child.once("exit", (code, signal) => {
        resolve(undefined);
        if (this.wanted && this.child === child) this.#endedByItself(code, signal);
      });
    });
  }

  #endedByItself(code, signal) {
    this.#options.onEnd?.({ code, signal, tail: this.tail() });
    if (this.#options.restart === false) {
      this.wanted = false;
      return;
    }
    setTimeout(() => this.wanted && !this.isUp && this.#spawn(), RESTART_PAUSE_MS);
  }

  async untilReady(timeoutMs = START_MS) {
    const { ready } = this.#options;
    const until = performance.now() + timeoutMs;
    while (ready && !(await ready(this))) {
      if (performance.now() > until)
        throw new Error(`${this.name} is not ready after ${timeoutMs} ms\n${this.tail()}`);
      await sleep(25);
    }
  }

  tail(lines = 15) {
    try {
      return readFileSync(this.#options.logFile, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
    } catch {
      return "";
    }
  }

  /** kill -9; resolves when it is dead (M1). */
  async kill() {
    this.wanted = false;
    this.child?.kill("SIGKILL");
    await this.#exited;
  }

  pause() {
    if (!this.isUp) return;
    this.isPaused = true;
    this.child?.kill("SIGSTOP");
  }

  resume() {
    this.isPaused = false;
    this.child?.kill("SIGCONT");
  }

  /** SIGTERM, and after its grace SIGKILL; resolves with whether it went by itself. */
  async term() {
    this.wanted = false;
    if (!this.isUp) return true;
    if (this.isPaused) this.resume();
    let late = false;
    this.child?.kill("SIGTERM");
    const timer = setTimeout(() => {
      late = true;
      this.child?.kill("SIGKILL");
    }, STOP_MS);
    await this.#exited;
    clearTimeout(timer);
    return !late;
  }
}
