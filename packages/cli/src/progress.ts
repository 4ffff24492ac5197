/** A progress bar on standard error, redrawn at most ten times a second; nothing at all where that is no terminal. */
import type { GroupProgress } from "@farloom/sdk";

const WIDTH = 30;
/** Faster than the eye follows costs a slow terminal its time. */
const REDRAW_MS = 100;

export class ProgressBar {
  readonly #active: boolean;
  readonly #startMs = performance.now();
  #drawnMs = 0;

  constructor(active = process.stderr.isTTY === true) {
    this.#active = active;
  }

  update(progress: GroupProgress): void {
    const nowMs = performance.now();
    if (!this.#active || nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    process.stderr.write(`\r\u001b[K${this.#line(progress)}`);
  }

  /** Takes the bar away, so that a line can be printed. */
  clear(): void {
    if (this.#active && this.#drawnMs > 0) process.stderr.write("\r\u001b[K");
    this.#drawnMs = 0;
  }

  /** The last word: how many, how fast. */
  summary({ done, failed }: GroupProgress): string {
    const seconds = (performance.now() - this.#startMs) / 1000;
    const bad = failed > 0 ? `, ${failed} failed` : "";
    return `${done + failed} tasks in ${seconds.toFixed(1)} s (${rate((done + failed) / seconds)}/s)${bad}`;
  }

  #line({ done, failed, total, submitted }: GroupProgress): string {
    const ended = done + failed;
    const perSecond = (ended * 1000) / (performance.now() - this.#startMs);
    const bad = failed > 0 ? `  ${failed} failed` : "";
    if (total === undefined) return `${ended} of ${submitted} so far  ${rate(perSecond)}/s${bad}`;
    const filled = total === 0 ? WIDTH : Math.round((ended / total) * WIDTH);
    const bar = "█".repeat(filled).padEnd(WIDTH, "░");
    const leftS = perSecond > 0 ? Math.round((total - ended) / perSecond) : undefined;
    const left = leftS === undefined || ended === total ? "" : `  ${leftS} s left`;
    return `${bar} ${ended}/${total}  ${rate(perSecond)}/s${bad}${left}`;
  }
}

function rate(perSecond: number): string {
  return perSecond >= 100 ? Math.round(perSecond).toLocaleString("en") : perSecond.toFixed(1);
}
