/** A load balancer as small as can be: one address, and each connection goes to the first of its targets that answers. */
import { connect, createServer, type Server, type Socket } from "node:net";

export class TcpProxy {
  readonly url: string;
  /** Ports on the loopback interface, tried in this order; a test may change them. */
  targets: number[];
  /** Connections for which no target was there. */
  refused = 0;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;
  readonly #pairs = new Set<readonly [Socket, Socket]>();

  private constructor(server: Server, sockets: Set<Socket>, port: number) {
    this.#server = server;
    this.#sockets = sockets;
    this.targets = [];
    this.url = `http://127.0.0.1:${port}`;
  }

  static async open(targets: readonly number[]): Promise<TcpProxy> {
    const sockets = new Set<Socket>();
    const server = createServer((near) => {
      sockets.add(near);
      near.on("close", () => sockets.delete(near)).on("error", () => undefined);
      proxy.#dial(near, [...proxy.targets]);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const proxy = new TcpProxy(server, sockets, typeof address === "object" && address ? address.port : 0);
    proxy.targets = [...targets];
    return proxy;
  }

  /** The URL of a database, by way of here. */
  through(databaseUrl: string): string {
    const url = new URL(databaseUrl);
    url.host = new URL(this.url).host;
    url.searchParams.delete("host");
    return url.toString();
  }

  /** Ends every connection there is; new ones are taken. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The connections there are go on, and nothing passes over them any more: what a firewall does that forgets. */
  forget(): void {
    for (const [near, far] of this.#pairs) {
      for (const socket of [near, far]) socket.unpipe().resume();
    }
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #dial(near: Socket, targets: number[]): void {
    const port = targets.shift();
    if (port === undefined) {
      this.refused++;
      near.destroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    this.#sockets.add(far);
    far.on("close", () => this.#sockets.delete(far));
    const next = (): void => this.#dial(near, targets);
    far.once("error", next);
    far.once("connect", () => {
      far.off("error", next).on("error", () => undefined);
      near.pipe(far).pipe(near);
      const pair = [near, far] as const;
      this.#pairs.add(pair);
      near.on("close", () => {
        this.#pairs.delete(pair);
        far.destroy();
      });
      far.on("close", () => near.destroy());
    });
  }
}
