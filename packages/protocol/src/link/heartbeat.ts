/**
 * Liveness of one connection (P18), on the monotonic clock of whoever watches. The connecting side pings; both
 * sides give up after silence. Any frame counts as a sign of life.
 */
export interface HeartbeatOptions {
  readonly heartbeatMs: number;
  readonly deadAfterMs: number;
  /** Absent on the side that only answers. */
  readonly sendPing?: (n: number) => void;
  readonly onDead: () => void;
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #timer: NodeJS.Timeout;
  #heardAt = performance.now();
  #n = 0;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#tick(), options.heartbeatMs);
    this.#timer.unref();
  }

  /** A frame came. */
  heard(): void {
    this.#heardAt = performance.now();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const silentMs = performance.now() - this.#heardAt;
    if (silentMs > this.#options.deadAfterMs) {
      this.stop();
      this.#options.onDead();
    } else this.#options.sendPing?.(++this.#n);
  }
}
