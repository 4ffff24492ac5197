/**
 * Moves payload files between this machine and the service. A file is fetched, verified and put in place
 * before its task is handed down, and sent up before its result is. What fails for want of a connection is
 * tried again for as long as somebody needs it; what the service says is gone is a failure.
 *
 * Small files move whole, by plain calls: a trip to the thread pool for each chunk would cost more than the file.
 * Large ones are streamed.
 *
 * Bound: MAX_TRANSFERS at once, each with MAX_WHOLE_BYTES of memory at most; the rest waits in line, no more than
 * tasks are held.
 */
import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import type { ClientRequest, IncomingMessage } from "node:http";
import { FarloomError, limits } from "@farloom/protocol";
import { planted } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import { failureOf, type HttpFailure, http, isOk, isRequestSent, readInto, sleep } from "../http.js";
import { Backoff } from "../link/backoff.js";
import { BufferPool } from "./buffer-pool.js";
import type { PayloadStore } from "./payload-store.js";
import { receiveFile } from "./receive-file.js";
import { sendFile } from "./send-file.js";

const MAX_TRANSFERS = 8;
/** Above this a file is streamed. */
const MAX_WHOLE_BYTES = 4 * 1024 * 1024;
/** A service that sends nothing for so long is gone; a slow disk behind it is not. */
const IDLE_TIMEOUT_MS = 60_000;
/** A file that keeps arriving damaged is damaged where it lies. */
const MAX_MISMATCHES = 3;

const OCTETS = { "content-type": "application/octet-stream" };

export interface PayloadTransferOptions {
  readonly serviceUrl: string;
  readonly store: PayloadStore;
  /** A session token that is good for some seconds. */
  readonly token: (signal: AbortSignal) => Promise<string>;
  readonly log: Logger;
}

/** What became of a transfer: `gone` for good, with the reason. */
export type TransferOutcome = { readonly ok: true } | { readonly ok: false; readonly message: string };

export class PayloadTransfer {
  readonly #options: PayloadTransferOptions;
  readonly #stop = new AbortController();
  readonly #buffers = new BufferPool();
  readonly #running = new Map<string, Promise<TransferOutcome>>();
  #free = MAX_TRANSFERS;
  readonly #line: (() => void)[] = [];

  constructor(options: PayloadTransferOptions) {
    this.#options = options;
  }

  /** Sees to it that the file is here. Never rejects; after `close` it never resolves. */
  fetch(hex: string, sizeBytes: number): Promise<TransferOutcome> {
    return this.#once(`get ${hex}`, (signal) => this.#download(hex, sizeBytes, signal));
  }

  /** Sees to it that the service has the file. */
  send(hex: string): Promise<TransferOutcome> {
    return this.#once(`put ${hex}`, (signal) => this.#upload(hex, signal));
  }

  close(): void {
    this.#stop.abort();
  }

  #once(name: string, attempt: (signal: AbortSignal) => Promise<TransferOutcome>): Promise<TransferOutcome> {
    const running = this.#running.get(name);
    if (running) return running;
    const transfer = this.#persist(name, attempt).finally(() => this.#running.delete(name));
    this.#running.set(name, transfer);
    return transfer;
  }

  async #persist(
    name: string,
    attempt: (signal: AbortSignal) => Promise<TransferOutcome>,
  ): Promise<TransferOutcome> {
    const { signal } = this.#stop;
    const backoff = new Backoff();
    let mismatches = 0;
    while (!signal.aborted) {
      await this.#takeSlot();
      try {
        return await attempt(signal);
      } catch (error) {
        if (error instanceof FarloomError && ++mismatches >= MAX_MISMATCHES) {
          return { ok: false, message: error.message };
        }
        this.#options.log.warn(
          { err: error, transfer: name },
          "a payload transfer failed; it is tried again",
        );
      } finally {
        this.#giveSlot();
      }
      await sleep(backoff.next(), signal);
    }
    return new Promise(() => {});
  }

  async #download(hex: string, sizeBytes: number, signal: AbortSignal): Promise<TransferOutcome> {
    const { store } = this.#options;
    if (store.sizeOf(hex) === sizeBytes) return { ok: true };
    if (sizeBytes > limits.MAX_PAYLOAD_BYTES) {
      return {
        ok: false,
        message: new FarloomError("PAYLOAD_TOO_LARGE", { limit: limits.MAX_PAYLOAD_BYTES }).message,
      };
    }
    const url = this.#url(hex);
    const response = await http(url, {
      method: "GET",
      headers: await this.#headers(signal),
      signal,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
    });
    if (!isOk(response)) return this.#refused(await failureOf(url, response));
    try {
      const actual =
        sizeBytes <= MAX_WHOLE_BYTES
          ? await this.#receiveWhole(hex, sizeBytes, response)
          : await receiveFile(response, store.partPath(hex), sizeBytes);
      if (actual !== hex) throw new FarloomError("PAYLOAD_MISMATCH", { digest: hex, actual });
      store.adopt(hex);
    } catch (error) {
      rmSync(store.partPath(hex), { force: true });
      throw error;
    }
    return { ok: true };
  }

  /** The digest of what came; it is in the part's file where that is the right one. */
  async #receiveWhole(hex: string, sizeBytes: number, response: IncomingMessage): Promise<string> {
    const buffer = this.#buffers.take(sizeBytes);
    const received = await readInto(response, buffer.subarray(0, sizeBytes));
    const bytes = buffer.subarray(0, received);
    const isChecked = !planted("payload-digest-unchecked");
    const actual = isChecked ? createHash("sha256").update(bytes).digest("hex") : hex;
    if (actual === hex) await this.#options.store.writePart(hex, bytes);
    this.#buffers.give(buffer);
    return actual;
  }

  async #upload(hex: string, signal: AbortSignal): Promise<TransferOutcome> {
    const { store } = this.#options;
    const sizeBytes = store.sizeOf(hex);
    if (sizeBytes === undefined) return { ok: false, message: "the result's file is gone from the agent" };
    const url = this.#url(hex);
    const headers = await this.#headers(signal);
    const response =
      sizeBytes <= MAX_WHOLE_BYTES
        ? await this.#sendWhole(hex, sizeBytes, url, headers, signal)
        : await this.#sendStream(hex, sizeBytes, url, headers, signal);
    if (response === undefined) return { ok: true };
    if (!isOk(response)) {
      const failure = await failureOf(url, response);
      if (failure.code === "PAYLOAD_MISMATCH") {
        return { ok: false, message: "the result's file was changed after it was written" };
      }
      return this.#refused(failure);
    }
    response.resume();
    return { ok: true };
  }

  /** The service says by itself where it has the file: asking first would cost as much as sending it. */
  async #sendWhole(
    hex: string,
    sizeBytes: number,
    url: URL,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const buffer = this.#buffers.take(sizeBytes);
    const body = buffer.subarray(0, this.#options.store.read(hex, buffer.subarray(0, sizeBytes)));
    const response = await http(url, {
      method: "PUT",
      headers: { ...headers, ...OCTETS },
      body,
      signal,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
    });
    // A service that refuses may answer before all is written; such a buffer is left to the collector.
    if (isRequestSent(response)) this.#buffers.give(buffer);
    return response;
  }

  /** Undefined where the service has the file: a result that is sent again after a reconnect mostly is there. */
  async #sendStream(
    hex: string,
    sizeBytes: number,
    url: URL,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<IncomingMessage | undefined> {
    const { store } = this.#options;
    const there = await http(url, { method: "HEAD", headers, signal });
    there.resume();
    if (isOk(there)) return undefined;
    return http(url, {
      method: "PUT",
      headers: { ...headers, ...OCTETS },
      body: { write: (request: ClientRequest) => sendFile(request, store.path(hex), sizeBytes), sizeBytes },
      signal,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
    });
  }

  /** The one place that says which refusals are for good. */
  #refused(failure: HttpFailure): TransferOutcome {
    const forGood = [403, 404, 410, 413, 422].includes(failure.status);
    if (!forGood) throw failure;
    return { ok: false, message: failure.message };
  }

  async #headers(signal: AbortSignal): Promise<Record<string, string>> {
    return { authorization: `Bearer ${await this.#options.token(signal)}` };
  }

  #url(hex: string): URL {
    return new URL(`/v1/payloads/${hex}`, this.#options.serviceUrl);
  }

  async #takeSlot(): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#line.push(resolve));
  }

  #giveSlot(): void {
    const next = this.#line.shift();
    if (next) next();
    else this.#free++;
  }
}
