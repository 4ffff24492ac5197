/** A site's HTTP proxy as small as can be: CONNECT alone, to port 443 alone, and it knows its names by itself. */
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";

export class ConnectProxy {
  /** `host:port` of every CONNECT, oldest first, and of every other request with its method. */
  readonly asked: string[] = [];
  /** Where a name's port 443 really is: a port on loopback. */
  readonly #targets: ReadonlyMap<string, number>;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, targets: ReadonlyMap<string, number>) {
    this.#server = server;
    this.#targets = targets;
  }

  static async open(targets: Readonly<Record<string, number>>): Promise<ConnectProxy> {
    const server = createServer((request, response) => {
      proxy.asked.push(`${request.method} ${request.url}`);
      response.writeHead(403).end();
    });
    const proxy = new ConnectProxy(server, new Map(Object.entries(targets)));
    server.on("connection", (socket) => {
      proxy.#sockets.add(socket);
      socket.on("close", () => proxy.#sockets.delete(socket)).on("error", () => undefined);
    });
    server.on("connect", (request, near: Socket, head) => proxy.#carry(request.url ?? "", near, head));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #carry(target: string, near: Socket, head: Buffer): void {
    this.asked.push(target);
    const [host = "", port] = target.split(":");
    const at = port === "443" ? this.#targets.get(host) : undefined;
    if (at === undefined) {
      near.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
      return;
    }
    const far = connect(at, "127.0.0.1", () => {
      near.write("HTTP/1.1 200 Connection established\r\n\r\n");
      far.write(head);
      near.pipe(far).pipe(near);
    });
    this.#sockets.add(far);
    far.on("close", () => near.destroy()).on("error", () => near.destroy());
    near.on("close", () => far.destroy());
  }
}
