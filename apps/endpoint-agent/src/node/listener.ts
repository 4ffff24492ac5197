/**
 * The Unix socket that workers dial, and its door: a connection says `hello` with a name and the secret that
 * the node manager gave that worker, or it is closed. The folder is 0700, so other users do not even knock.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { lstatSync, mkdirSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type HelloFrame, limits } from "@farloom/protocol";
import { WorkerLink } from "./worker-link.js";

/** sun_path holds 108 bytes on Linux and 104 elsewhere, with the final NUL. */
const MAX_SOCKET_PATH = 103;

/** Where workers dial. The same for every agent of a state folder, so that its workers find the next one. */
export function socketPathFor(runDir: string): string {
  const path = join(runDir, "node.sock");
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH) return path;
  const digest = createHash("sha256").update(runDir).digest("hex").slice(0, 16);
  // By number: in many containers the user has no name. Windows has neither.
  const uid = process.getuid?.() ?? -1;
  const dir = join(tmpdir(), `farloom-${uid}-${digest}`);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const info = lstatSync(dir);
  if (!info.isDirectory() || (uid >= 0 && info.uid !== uid) || (info.mode & 0o077) !== 0) {
    throw new Error(
      `${dir} is not a folder that only you can enter; remove it, or use a shorter state folder`,
    );
  }
  return join(dir, "node.sock");
}

export interface ListenerOptions {
  readonly path: string;
  /** Another name of the socket, which workers in boxes see; undefined where there are none. */
  readonly door?: string | undefined;
  readonly openDoor?: (path: string, door: string) => void;
  /** The secret of the worker of that name, where there is one. */
  readonly secretOf: (worker: string) => string | undefined;
  readonly onWorker: (hello: HelloFrame, link: WorkerLink) => void;
  readonly onRefused: (reason: string) => void;
}

export class WorkerListener {
  readonly #options: ListenerOptions;
  readonly #server: Server;
  readonly #open = new Set<WorkerLink>();

  constructor(options: ListenerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#admit(new WorkerLink(socket)));
  }

  async listen(): Promise<void> {
    rmSync(this.#options.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(this.#options.path, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
    if (this.#options.door !== undefined) this.#options.openDoor?.(this.#options.path, this.#options.door);
  }

  /** Stops listening; the links are their workers' business. */
  async close(): Promise<void> {
    for (const link of this.#open) link.destroy();
    if (!this.#server.listening) return;
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.unref();
      // `close` waits for every connection; those of workers end when their processes do.
      setImmediate(resolve);
    });
    rmSync(this.#options.path, { force: true });
  }

  #admit(link: WorkerLink): void {
    this.#open.add(link);
    const timer = setTimeout(() => refuse("no hello came"), limits.HELLO_TIMEOUT_MS);
    const leave = () => {
      clearTimeout(timer);
      this.#open.delete(link);
    };
    const refuse = (reason: string) => {
      leave();
      this.#options.onRefused(reason);
      link.destroy();
    };
    link.listen({
      onFrame: (frame) => {
        if (frame.t !== "hello" || frame.role !== "worker")
          return refuse("the first frame is no worker's hello");
        const secret = this.#options.secretOf(frame.worker ?? "");
        if (secret === undefined || !sameSecret(secret, frame.secret ?? "")) {
          link.send({ t: "refuse", code: "UNAUTHENTICATED", message: "no such worker here" });
          return refuse("a hello with a wrong name or secret");
        }
        leave();
        this.#options.onWorker(frame, link);
      },
      onBad: (reason) => refuse(reason),
      onClose: leave,
    });
  }
}

function sameSecret(ours: string, theirs: string): boolean {
  const a = createHash("sha256").update(ours).digest();
  const b = createHash("sha256").update(theirs).digest();
  return timingSafeEqual(a, b);
}
