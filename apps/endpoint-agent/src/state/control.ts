/**
 * Where a running agent answers `status`: a Unix socket in its state folder, for its user alone. Whoever
 * connects is sent one JSON document and the end of the stream.
 */
import { chmodSync, rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { relative } from "node:path";

/** A local process that does not answer within this time hangs. */
const ANSWER_TIMEOUT_MS = 2000;
/** sun_path holds 108 bytes, with the zero. */
const MAX_SOCKET_PATH_BYTES = 107;

export class ControlSocket {
  readonly #server: Server;
  readonly #path: string;

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  static listen(path: string, answer: () => unknown): Promise<ControlSocket> {
    rmSync(path, { force: true });
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.end(JSON.stringify(answer()));
    });
    server.unref();
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(shortest(path), () => {
        chmodSync(path, 0o600);
        resolve(new ControlSocket(server, path));
      });
    });
  }

  close(): void {
    this.#server.close();
    rmSync(this.#path, { force: true });
  }
}

/** What the agent behind `path` says, or undefined where none answers. */
export function askControl(path: string): Promise<unknown> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = connect(shortest(path));
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy());
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("error", () => resolve(undefined));
    socket.on("close", () => {
      try {
        resolve(JSON.parse(Buffer.concat(chunks).toString("utf8")));
      } catch {
        resolve(undefined);
      }
    });
  });
}

/** A deep state folder may be too long for a socket's address; relative to the working directory it may not be. */
function shortest(path: string): string {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return path;
  const near = relative(process.cwd(), path);
  return Buffer.byteLength(near) <= MAX_SOCKET_PATH_BYTES ? near : path;
}
