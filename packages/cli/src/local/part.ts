/**
 * One part that `farloom dev` keeps running: started, watched, started again when it dies, stopped in order.
 *
 *   starting  entered by start and after a death; left by ready or by a death
 *   running   entered by ready; left by a death or by stop
 *   stopped   entered by stop, or when it died too often; never left
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type App, mainOf } from "./apps.js";
import { followLog, type Problem, prepareLog, withoutRepeats } from "./log.js";

export interface PartOptions {
  /** What it is called in what we say. */
  readonly name: string;
  readonly app: App;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly logFile: string;
  readonly onProblem: (problem: Problem) => void;
  /** What else it says over IPC when it is ready. */
  readonly onReady?: (message: { readonly firstAdminToken?: string }) => void;
  /** It died and is started again. */
  readonly onRestart: (how: string) => void;
  /** It died and stays dead: with this configuration it will not run. */
  readonly onGivenUp: (how: string) => void;
}

/** EX_CONFIG: starting again with the same settings would fail again. */
const EXIT_CONFIG = 78;
/** So many deaths within the window, and it is no accident. */
const MAX_DEATHS = 8;
const WINDOW_MS = 60_000;
const LONGEST_WAIT_MS = 5_000;
/** Between SIGTERM and SIGKILL: the service's own limit for a stop is 15 s. */
const STOP_MS = 20_000;

export class Part {
  readonly #options: PartOptions;
  readonly #onProblem: (problem: Problem) => void;
  #child: ChildProcess | undefined;
  #deaths: number[] = [];
  #stopping = false;
  #timer: NodeJS.Timeout | undefined;
  #ready: (url: string) => void = () => {};
  #failed: (error: Error) => void = () => {};

  constructor(options: PartOptions) {
    this.#options = options;
    this.#onProblem = withoutRepeats(options.onProblem);
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it. Resolves with the address where it says over IPC that it is ready, and rejects where it gives up. */
  start(): Promise<string> {
    prepareLog(this.#options.logFile);
    const ready = new Promise<string>((resolve, reject) => {
      this.#ready = resolve;
      this.#failed = reject;
    });
    // Parts that do not speak over IPC are not awaited.
    ready.catch(() => {});
    this.#spawn();
    return ready;
  }

  /** Ends it: gently, then not. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await gone;
    clearTimeout(timer);
  }

  #spawn(): void {
    const { app, args, env, logFile } = this.#options;
    const onProblem = this.#onProblem;
    const child = spawn(process.execPath, [mainOf(app), ...args], {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      // A Ctrl-C in the terminal is for `farloom dev`, which stops its parts in order.
      detached: true,
    });
    this.#child = child;
    followLog(child.stdout!, logFile, onProblem);
    followLog(child.stderr!, logFile, onProblem);
    child.on("message", (message: { ready?: string; firstAdminToken?: string }) => {
      if (!message.ready) return;
      this.#options.onReady?.(message);
      this.#ready(message.ready);
    });
    child.once("error", (error) => this.#died(error.message, undefined));
    child.once("exit", (code, signal) =>
      this.#died(signal ? `was ended by ${signal}` : `ended with code ${code}`, code),
    );
  }

  #died(how: string, code: number | null | undefined): void {
    if (this.#stopping) return;
    const nowMs = performance.now();
    this.#deaths = [...this.#deaths.filter((atMs) => nowMs - atMs < WINDOW_MS), nowMs];
    if (code === EXIT_CONFIG || this.#deaths.length >= MAX_DEATHS) {
      this.#stopping = true;
      this.#failed(new Error(`${this.#options.name} ${how}`));
      this.#options.onGivenUp(how);
      return;
    }
    this.#options.onRestart(how);
    this.#timer = setTimeout(
      () => this.#spawn(),
      Math.min(LONGEST_WAIT_MS, 200 * 2 ** (this.#deaths.length - 1)),
    );
  }
}
