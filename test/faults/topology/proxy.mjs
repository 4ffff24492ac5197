/**
 * A link between two parts, in our hands: one address, each connection to the first of its targets that answers.
 *
 *   N1  A healthy link passes bytes as they come; back-pressure is passed on.
 *   N2  What a disturbance has touched is never healed into a healthy stream: those connections end with it, as no
 *       real network gives bytes back that it has lost.
 *   N3  A half-open link takes connections and says nothing: what a firewall does that forgets.
 *
 * Taps (ws-tap.mjs, pg-tap.mjs) look into the bytes of a direction and may change or end them.
 */
import { connect, createServer } from "node:net";

/** Bytes that wait in a delayed direction; then its source is paused. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

export class LinkProxy {
  /** Ports of 127.0.0.1, in the order in which they are tried. */
  targets;
  #server;
  #pairs = new Set();
  #state = { open: true, silent: undefined, delayMs: 0, jitterMs: 0, bytesPerS: 0, tap: undefined };

  static async open(targets) {
    const proxy = new LinkProxy();
    proxy.targets = targets;
    proxy.#server = createServer((near) => proxy.#take(near));
    await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get port() {
    return this.#server.address().port;
  }

  get connections() {
    return this.#pairs.size;
  }

  /** Ends every connection; `gracefully` with FIN, otherwise with RST. New ones are taken. */
  reset({ gracefully = false } = {}) {
    for (const pair of this.#pairs) pair.end(gracefully);
  }

  /** No connection lives or comes through until `heal`. */
  cut() {
    this.#state.open = false;
    this.reset();
  }

  /** Nothing passes, in one direction (`up`: towards the target, `down`) or in both, and nobody is told. */
  silence(direction = "both") {
    this.#state.silent = direction;
    for (const pair of this.#pairs) pair.touched = true;
  }

  delay(ms, jitterMs = 0) {
    Object.assign(this.#state, { delayMs: ms, jitterMs });
  }

  throttle(bytesPerS) {
    this.#state.bytesPerS = bytesPerS;
  }

  /** `makeTap(direction)` gives, for each connection from now on and each that is there, a function of chunks. */
  tap(makeTap) {
    this.#state.tap = makeTap;
    for (const pair of this.#pairs) pair.touched = true;
  }

  /** Everything passes again; what was touched ends (N2). */
  heal() {
    this.#state = { open: true, silent: undefined, delayMs: 0, jitterMs: 0, bytesPerS: 0, tap: undefined };
    for (const pair of this.#pairs) if (pair.touched) pair.end(false);
  }

  async close() {
    this.reset();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #take(near) {
    near.on("error", () => near.destroy());
    if (!this.#state.open) {
      near.resetAndDestroy();
      return;
    }
    this.#dial(near, [...this.targets]);
  }

  #dial(near, targets) {
    const port = targets.shift();
    if (port === undefined || near.destroyed) {
      near.destroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    const next = () => this.#dial(near, targets);
    far.once("error", next);
    far.once("connect", () => {
      far.off("error", next);
      this.#join(near, far);
    });
  }

  #join(near, far) {
    near.setNoDelay(true);
    far.setNoDelay(true);
    const pair = {
      near,
      far,
      touched: this.#state.silent !== undefined || this.#state.tap !== undefined,
      taps: new Map(),
      end: (gracefully) => {
        for (const socket of [near, far]) {
          if (gracefully) socket.end();
          else if (!socket.destroyed) socket.resetAndDestroy();
        }
      },
    };
    this.#pairs.add(pair);
    const gone = () => {
      this.#pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    near.on("close", gone);
    far.on("close", gone).on("error", () => far.destroy());
    if (near.destroyed) {
      gone();
      return;
    }
    this.#pass(pair, near, far, "up");
    this.#pass(pair, far, near, "down");
  }

  #pass(pair, from, to, direction) {
    let waiting = 0;
    /** When what is written next may pass, in ms of performance.now(). */
    let free = 0;
    /** Delayed chunks, in the order in which they came: a stream is never reordered. */
    const late = [];
    let isTimed = false;
    const write = (chunk) => {
      if (!to.destroyed && !to.write(chunk)) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    };
    const release = () => {
      isTimed = false;
      while (late.length > 0 && late[0].at <= performance.now() + 1) {
        const { bytes } = late.shift();
        if (bytes === undefined) {
          to.end();
          return;
        }
        waiting -= bytes.length;
        if (waiting < MAX_WAITING_BYTES / 2) from.resume();
        write(bytes);
      }
      if (late.length > 0) wait();
    };
    const wait = () => {
      if (isTimed) return;
      isTimed = true;
      setTimeout(release, Math.max(0, late[0].at - performance.now()));
    };
    const hold = (at, bytes) => {
      late.push({ at, bytes });
      wait();
    };
    from.on("data", (chunk) => {
      const { silent, delayMs, jitterMs, bytesPerS } = this.#state;
      if (silent === "both" || silent === direction) {
        pair.touched = true;
        return;
      }
      const bytes = this.#tapped(pair, direction, chunk);
      if (bytes === undefined) return;
      const now = performance.now();
      const cost = bytesPerS > 0 ? (1000 * bytes.length) / bytesPerS : 0;
      const delay = delayMs > 0 ? delayMs + jitterMs * Math.random() : 0;
      free = Math.max(free, now + delay) + cost;
      if (free <= now + 1 && late.length === 0) {
        write(bytes);
        return;
      }
      waiting += bytes.length;
      if (waiting > MAX_WAITING_BYTES) from.pause();
      hold(free, bytes);
    });
    from.on("end", () => {
      if (late.length === 0) to.end();
      else hold(free, undefined);
    });
  }

  #tapped(pair, direction, chunk) {
    const make = this.#state.tap;
    if (make === undefined && pair.taps.size === 0) return chunk;
    if (make !== undefined && !pair.taps.has(direction)) pair.taps.set(direction, make(direction, pair));
    const tap = pair.taps.get(direction);
    return tap ? tap(chunk) : chunk;
  }
}
