/**
 * Runs until a signal or a failure. The first Ctrl-C stops in order; a second one ends at once: what was started is then
 * ended by its own watch over this process.
 */
export interface UntilTold {
  /** Resolves when it shall stop: with the failure, or undefined for a signal. */
  readonly stopped: Promise<string | undefined>;
  readonly stopping: boolean;
  fail(message: string): void;
  /** The promise's value, or undefined where a signal came first; failures are thrown. */
  orStopped<T>(work: Promise<T>): Promise<T | undefined>;
  /** Waits for work that was overtaken by a stop, and stops what it made. */
  settled(): Promise<void>;
  dispose(): void;
}

export function untilTold(): UntilTold {
  let resolve: (failure: string | undefined) => void = () => {};
  const stopped = new Promise<string | undefined>((done) => {
    resolve = done;
  });
  let signals = 0;
  const overtaken: Promise<unknown>[] = [];
  const onSignal = () => {
    if (++signals > 1) process.exit(130);
    resolve(undefined);
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  process.on("SIGHUP", onSignal);
  return {
    stopped,
    get stopping() {
      return signals > 0;
    },
    fail: (message) => resolve(message),
    async orStopped(work) {
      const first = await Promise.race([
        work.then((value) => ({ value })),
        stopped.then((failure) => ({ failure })),
      ]);
      if ("value" in first) return first.value;
      overtaken.push(
        work.then(
          (made) => (made as { part?: { stop(): Promise<void> } }).part?.stop(),
          () => {},
        ),
      );
      if (first.failure !== undefined) throw new Error(first.failure);
      return undefined;
    },
    async settled() {
      await Promise.all(overtaken);
    },
    dispose() {
      process.removeListener("SIGINT", onSignal);
      process.removeListener("SIGTERM", onSignal);
      process.removeListener("SIGHUP", onSignal);
    },
  };
}
