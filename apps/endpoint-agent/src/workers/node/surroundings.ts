/**
 * What is around a task in the Node worker: environment, working directory, output, measures. Taken or undone
 * before the next task starts, as in the Python worker.
 *
 * Output goes to files that the node manager opened as this process's fds 1 and 2, so it holds what child
 * processes write as well.
 */
import {
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { limits, type OutcomeDetail, type TaskOptions } from "@farloom/protocol";

/** Tasks shorter than this cannot have started a process or made a file that matters: asking costs as much. */
const MEASURE_AFTER_US = 200;

export interface Measures {
  readonly runUs: number;
  readonly cpuUs: number;
  readonly peakKb: number;
}

export class Surroundings {
  readonly #scratch: string;
  /** Where the sandbox shows other folders below it, their names stand here from the start. */
  readonly #kept: ReadonlySet<string>;
  readonly #base: Readonly<Record<string, string | undefined>>;
  readonly #readers: readonly [number, number];
  #peakKb = process.resourceUsage().maxRSS;
  #childrenUs = childrenUs();
  #startedMs = 0;
  #cpu: NodeJS.CpuUsage = process.cpuUsage();
  #canReset = true;

  constructor(dir: string) {
    this.#scratch = join(dir, "scratch");
    mkdirSync(this.#scratch, { recursive: true });
    this.#kept = new Set(readdirSync(this.#scratch));
    process.chdir(this.#scratch);
    this.#base = { ...process.env };
    this.#readers = [openSync(join(dir, "stdout"), "r"), openSync(join(dir, "stderr"), "r")];
    for (const fd of [1, 2]) ftruncateSync(fd, 0);
  }

  /** Before a call. Throws where the working directory cannot be used. */
  enter(vars: Record<string, string> | undefined, options: TaskOptions | undefined): void {
    process.env = { ...this.#base, ...vars, ...options?.env };
    process.chdir(options?.cwd ?? this.#scratch);
    this.#cpu = process.cpuUsage();
    this.#startedMs = performance.now();
  }

  measure(): Measures {
    const runUs = Math.round((performance.now() - this.#startedMs) * 1000);
    if (runUs < MEASURE_AFTER_US) return { runUs, cpuUs: runUs, peakKb: this.#peakKb };
    const cpu = process.cpuUsage(this.#cpu);
    let cpuUs = cpu.user + cpu.system;
    if (runUs > 10_000) {
      const children = childrenUs();
      cpuUs += children - this.#childrenUs;
      this.#childrenUs = children;
    }
    const peakKb = process.resourceUsage().maxRSS;
    if (peakKb > this.#peakKb + 1024 && this.#canReset) {
      try {
        writeFileSync("/proc/self/clear_refs", "5");
      } catch {
        this.#canReset = false;
      }
    }
    if (this.#canReset) this.#peakKb = process.resourceUsage().maxRSS;
    return { runUs, cpuUs, peakKb };
  }

  /** After a call: what it wrote, if anything. */
  leave(runUs: number): OutcomeDetail | undefined {
    let detail: OutcomeDetail | undefined;
    for (const fd of [1, 2] as const) {
      const reader = this.#readers[fd - 1]!;
      const sizeBytes = fstatSync(reader).size;
      if (sizeBytes === 0) continue;
      const start = Math.max(0, sizeBytes - limits.MAX_OUTPUT_TAIL_BYTES);
      const bytes = Buffer.alloc(sizeBytes - start);
      const read = readSync(reader, bytes, 0, bytes.length, start);
      ftruncateSync(fd, 0);
      detail ??= {};
      const text = bytes.toString("utf8", 0, read);
      if (fd === 1) Object.assign(detail, { stdout: text, stdoutBytes: sizeBytes });
      else Object.assign(detail, { stderr: text, stderrBytes: sizeBytes });
    }
    process.chdir(this.#scratch);
    if (runUs >= MEASURE_AFTER_US) {
      for (const name of readdirSync(this.#scratch)) {
        if (this.#kept.has(name)) continue;
        rmSync(join(this.#scratch, name), { recursive: true, force: true });
      }
    }
    return detail;
  }
}

/** CPU time of children that were waited for, from /proc in ticks of 10 ms: Node itself does not tell. */
function childrenUs(): number {
  try {
    const text = readFileSync("/proc/self/stat", "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[13]) + Number(fields[14])) * 10_000;
  } catch {
    return 0;
  }
}
