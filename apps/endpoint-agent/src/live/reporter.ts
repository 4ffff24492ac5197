/**
 * Tells the service how this endpoint stands (P32), so that it can explain a wait: once in REPORT_MS at most, only what
 * has changed, and never for a single task. It is called at every turn, and costs nothing while a timer runs.
 */
import { boundReport, type EndpointReport, type ReportFrame } from "@farloom/protocol";

const REPORT_MS = 1_000;
/** A burst that is over at once is not worth a report. */
const SETTLE_MS = 250;

export interface ReporterOptions {
  readonly read: () => EndpointReport;
  /** False where nobody hears reports now. */
  readonly send: (frame: ReportFrame) => boolean;
}

export class Reporter {
  readonly #options: ReporterOptions;
  #timer: NodeJS.Timeout | undefined;
  #sentAtMs = Number.NEGATIVE_INFINITY;
  #last = "";
  #closed = false;

  constructor(options: ReporterOptions) {
    this.#options = options;
  }

  /** Something may have changed. */
  changed(): void {
    if (this.#timer !== undefined || this.#closed) return;
    const inMs = Math.max(SETTLE_MS, this.#sentAtMs + REPORT_MS - performance.now());
    this.#timer = setTimeout(() => this.#tell(), inMs);
    this.#timer.unref();
  }

  /** A session begins: the service knows nothing yet. */
  opened(): void {
    this.#last = "";
    this.changed();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #tell(): void {
    this.#timer = undefined;
    const report = boundReport(this.#options.read());
    const text = JSON.stringify(report);
    if (text === this.#last || !this.#options.send({ t: "report", report })) return;
    this.#last = text;
    this.#sentAtMs = performance.now();
  }
}
