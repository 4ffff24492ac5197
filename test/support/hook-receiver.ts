// Receivers of webhooks for tests: real https servers with certificates of an authority made for the run, and a check of
// signatures that shares nothing with ours.
import { execFileSync } from "node:child_process";
import { createHmac, timingSafeEqual } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Authority {
  readonly ca: string;
  readonly key: string;
  readonly cert: string;
}

/** An authority, and a certificate of its making for *.hooks.test and 127.0.0.1. */
export function makeAuthority(): Authority {
  const dir = mkdtempSync(join(tmpdir(), "farloom-ca-"));
  try {
    const at = (name: string): string => join(dir, name);
    const openssl = (...args: string[]): void => void execFileSync("openssl", args, { stdio: "pipe" });
    const fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
      "req",
      "-x509",
      ...fresh,
      "-keyout",
      at("ca.key"),
      "-out",
      at("ca.pem"),
      "-days",
      "2",
      "-subj",
      "/CN=hooks",
    );
    openssl("req", ...fresh, "-keyout", at("key.pem"), "-out", at("csr.pem"), "-subj", "/CN=hooks.test");
    writeFileSync(at("ext"), "subjectAltName=DNS:*.hooks.test,IP:127.0.0.1\n");
    const signing = [
      "-CA",
      at("ca.pem"),
      "-CAkey",
      at("ca.key"),
      "-CAcreateserial",
      "-days",
      "2",
      "-extfile",
      at("ext"),
    ];
    openssl("x509", "-req", "-in", at("csr.pem"), ...signing, "-out", at("cert.pem"));
    const read = (name: string): string => readFileSync(at(name), "utf8");
    return { ca: read("ca.pem"), key: read("key.pem"), cert: read("cert.pem") };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

export interface Received {
  readonly id: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly raw: string;
  readonly atMs: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies of every shape.
  readonly body: any;
}

type Handler = (received: Received, response: ServerResponse) => void;

export class HookReceiver {
  readonly received: Received[] = [];
  /** What it answers, by path; 204 where nothing is said. */
  readonly answers = new Map<string, Handler>();
  readonly #server: Server;
  readonly #listeners = new Set<() => void>();

  private constructor(server: Server) {
    this.#server = server;
  }

  /** On that address; on a port of its own, or the one given. */
  static async start({ key, cert }: Authority, host: string, port = 0): Promise<HookReceiver> {
    const server = createServer({ key, cert });
    const receiver = new HookReceiver(server);
    server.on("request", (request, response) => receiver.#take(request, response));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, host, resolve);
    });
    return receiver;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  at(path: string): Received[] {
    return this.received.filter((one) => one.path === path);
  }

  /** What came at the path, once that many have. */
  async until(path: string, count: number, timeoutMs = 20_000): Promise<Received[]> {
    const deadline = performance.now() + timeoutMs;
    while (this.at(path).length < count) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0)
        throw new Error(
          `${this.at(path).length} of ${count} came at ${path}: ${JSON.stringify(this.received.map((r) => r.path))}`,
        );
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.#listeners.delete(done);
          resolve();
        };
        const timer = setTimeout(done, leftMs);
        this.#listeners.add(done);
      });
    }
    return this.at(path);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #take(request: IncomingMessage, response: ServerResponse): void {
    const pieces: Buffer[] = [];
    request.on("data", (piece: Buffer) => pieces.push(piece));
    request.on("end", () => {
      const raw = Buffer.concat(pieces).toString("utf8");
      const path = request.url ?? "";
      const id = String(request.headers["webhook-id"]);
      const received = {
        id,
        path,
        headers: request.headers,
        raw,
        atMs: performance.now(),
        body: JSON.parse(raw),
      };
      this.received.push(received);
      for (const listener of [...this.#listeners]) listener();
      const answer = this.answers.get(path);
      if (answer) answer(received, response);
      else response.writeHead(204).end();
    });
  }
}

/** As a receiver would write it from the specification: any of the signatures is enough. */
export function isSigned({ headers, raw }: Received, secret: string): boolean {
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  const text = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${raw}`;
  const wanted = createHmac("sha256", key).update(text).digest();
  return String(headers["webhook-signature"])
    .split(" ")
    .some((one) => {
      const given = Buffer.from(one.replace(/^v1,/, ""), "base64");
      return one.startsWith("v1,") && given.length === wanted.length && timingSafeEqual(given, wanted);
    });
}
