/**
 * Keeps the agent connected: one loop that connects, serves until the connection ends, waits and begins again.
 * Whatever wants a change (a stop, a reason to try now) wakes this loop by name; nothing else reconnects.
 *
 *     connecting ─► open ─► waiting ─► connecting …        stop ─► stopped
 *
 * connecting  a token is fetched and the handshake made; left for open, or for waiting with the reason
 * open        frames flow; left when the connection ends
 * waiting     a jittered backoff, which starts anew only after a connection that lasted
 * stopped     for good: somebody stopped it, or going on would be wrong (`SupervisorOptions.onFinal`)
 *
 * Two ends are final. LINK_REPLACED: another agent has this identity, and two would take the link from each other for
 * ever; the newest connection wins. VERSION_UNSUPPORTED: only another program can speak to this service.
 */
import { type HelloFrame, isRetryable, limits, type WelcomeFrame } from "@farloom/protocol";
import type { Logger } from "pino";
import { HttpFailure, sleep } from "../http.js";
import { Backoff } from "./backoff.js";
import { Connection, type DownFrame, type EndReason, type LinkSession } from "./connection.js";
import { shakeHands } from "./handshake.js";
import type { SessionTokens } from "./session-token.js";

/** A connection that lasted so long was no accident: the next break starts with a short wait again. */
const PROVEN_MS = 10_000;
/**
 * A handshake that this process gave up may still be taken up by a service that hung meanwhile, as late as this after
 * it: then it is a ghost of our own that replaced us, and not another agent. Each ghost excuses one LINK_REPLACED.
 */
const GHOST_MS = 10 * 60_000;
/**
 * Where trying again cannot help until somebody acts, it is tried at this pace: somebody may have acted. The first few
 * times it may be an accident (a token that a jumping clock made old), and a minute away could cost the leases.
 */
const HOPELESS_MS = 60_000;
const ACCIDENTS = 4;

/** What the supervisor serves: the engine. */
export interface LinkUser {
  hello(): HelloFrame;
  opened(session: LinkSession, welcome: WelcomeFrame): void;
  frame(frame: DownFrame, bytes: Buffer): void;
  writable(): void;
  closed(reason: EndReason): void;
}

export type LinkState =
  | { readonly phase: "connecting" }
  | { readonly phase: "open"; readonly session: string; readonly sinceMs: number }
  | { readonly phase: "waiting"; readonly reason: EndReason; readonly forMs: number }
  | { readonly phase: "stopped" };

export interface SupervisorOptions {
  readonly serviceUrl: string;
  readonly tokens: SessionTokens;
  readonly user: LinkUser;
  readonly log: Logger;
  /** The link has stopped by itself, for good. */
  readonly onFinal?: (reason: EndReason) => void;
}

export class LinkSupervisor {
  readonly #options: SupervisorOptions;
  readonly #stop = new AbortController();
  readonly #backoff = new Backoff();
  #state: LinkState = { phase: "connecting" };
  #connection: Connection | undefined;
  #wake: AbortController | undefined;
  #running: Promise<void> | undefined;
  /** Ends in a row after which only a person could help. */
  #hopeless = 0;
  /** When each connection ended that had said hello and heard neither welcome nor refusal. */
  #ghostsAtMs: number[] = [];

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  get state(): LinkState {
    return this.#state;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Tries again now instead of waiting out the backoff. */
  wake(reason: string): void {
    if (this.#state.phase !== "waiting") return;
    this.#options.log.debug({ reason }, "the link is woken");
    this.#wake?.abort();
  }

  /** Says bye, closes and stays closed. Idempotent. */
  async stop(message: string): Promise<void> {
    this.#connection?.close("DRAINING", message);
    this.#stop.abort();
    this.#wake?.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { log } = this.#options;
    while (!this.#stop.signal.aborted) {
      this.#set({ phase: "connecting" });
      const reason = await this.#connectAndServe();
      if (this.#stop.signal.aborted) break;
      if (this.#isFinal(reason)) {
        log.error({ code: reason.code, reason: reason.message }, "the link has ended for good");
        this.#set({ phase: "stopped" });
        this.#options.onFinal?.(reason);
        return;
      }
      const forMs = this.#waitAfter(reason);
      this.#set({ phase: "waiting", reason, forMs });
      log.warn({ code: reason.code, reason: reason.message, waitMs: Math.round(forMs) }, "not connected");
      this.#wake = new AbortController();
      await sleep(forMs, this.#wake.signal);
    }
    this.#set({ phase: "stopped" });
  }

  /** Returns why it ended; an expected failure is a value. */
  async #connectAndServe(): Promise<EndReason> {
    const { tokens, serviceUrl, user, log } = this.#options;
    const { signal } = this.#stop;
    let token: string;
    try {
      token = await tokens.fresh(signal);
    } catch (error) {
      if (!(error instanceof HttpFailure)) throw error;
      return { code: error.code, message: error.message, retryAfterMs: error.retryAfterMs };
    }
    const url = `${serviceUrl.replace(/^http/, "ws")}${limits.AGENT_LINK_PATH}`;
    const dialled = await Connection.open(url, token, signal);
    if (!dialled.ok) return dialled;
    const { connection } = dialled;
    let said: EndReason | undefined;
    let openedAtMs = 0;
    let end!: (reason: EndReason) => void;
    const ended = new Promise<EndReason>((resolve) => {
      end = resolve;
    });
    const shaken = await shakeHands(connection, user.hello(), (welcome) => {
      this.#connection = connection;
      openedAtMs = performance.now();
      this.#set({ phase: "open", session: welcome.session, sinceMs: Date.now() });
      log.info({ session: welcome.session, service: serviceUrl, software: welcome.software }, "connected");
      user.opened(connection, welcome);
      return {
        onFrame: (frame, bytes) => {
          if (frame.t === "bye" || frame.t === "refuse") said = { code: frame.code, message: frame.message };
          user.frame(frame, bytes);
        },
        onWritable: () => user.writable(),
        onEnd: (reason) => end(said ?? reason),
      };
    });
    if (!shaken.ok) {
      if (!GIVEN_BY_SERVICE.has(shaken.code)) this.#ghostsAtMs.push(performance.now());
      return shaken;
    }
    if (signal.aborted) connection.close("DRAINING", "the agent stops");
    const reason = await ended;
    this.#connection = undefined;
    if (performance.now() - openedAtMs > PROVEN_MS) this.#backoff.reset();
    user.closed(reason);
    return reason;
  }

  #isFinal(reason: EndReason): boolean {
    if (reason.code === "VERSION_UNSUPPORTED") return true;
    if (reason.code !== "LINK_REPLACED") return false;
    const oldest = performance.now() - GHOST_MS;
    this.#ghostsAtMs = this.#ghostsAtMs.filter((atMs) => atMs > oldest);
    return this.#ghostsAtMs.shift() === undefined;
  }

  #waitAfter(reason: EndReason): number {
    this.#hopeless = isHopeless(reason.code) ? this.#hopeless + 1 : 0;
    return this.#hopeless > ACCIDENTS ? HOPELESS_MS : this.#backoff.next(reason.retryAfterMs);
  }

  #set(state: LinkState): void {
    this.#state = state;
  }
}

/** The codes after which only a person can help. */
function isHopeless(code: string): boolean {
  return HOPELESS.has(code) && !isRetryable(code);
}

/** How a handshake ends where the service has heard us and let go. */
const GIVEN_BY_SERVICE = new Set([
  "VERSION_UNSUPPORTED",
  "LINK_REPLACED",
  "ENDPOINT_NOT_FOUND",
  "SESSION_TOKEN_USED",
  "NOT_READY",
  "DRAINING",
]);

const HOPELESS = new Set([
  "ENDPOINT_NOT_FOUND",
  "SIGNATURE_INVALID",
  "SCOPE_MISSING",
  "UNAUTHENTICATED",
  "HOST_REFUSED",
]);
