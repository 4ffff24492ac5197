/**
 * The door that nodes of blocks knock at: TLS under the agent's own certificate. A connection says `hello` within
 * 10 s, with its block, its name and a proof (P29), or it is closed; what a stranger costs is bounded.
 */

import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { FRAMES_UP, type Frame, type HelloFrame, limits } from "@farloom/protocol";
import type { Logger } from "pino";
import type { CallbackAddress } from "../blocks/parameters.js";
import { StreamPort } from "../node/stream-port.js";
import type { Certificate } from "./certificate.js";

/** Connections that have not said who they are; one more is closed at once. A large block comes in one moment. */
const MAX_STRANGERS = 512;
/** A hello lists what a node holds: 16 bytes a task. */
const MAX_HELLO_BYTES = 1024 * 1024;

export interface NodeDoorOptions {
  readonly certificate: Certificate;
  /** The interface to listen on; `0.0.0.0` or `::` for all. */
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly log: Logger;
  /** Judges a hello; whoever takes it answers on the port, which is then its own. */
  readonly onHello: (hello: HelloFrame, port: StreamPort) => void;
}

export class NodeDoor {
  readonly #server: Server;
  readonly #options: NodeDoorOptions;
  readonly #strangers = new Set<StreamPort>();
  #port = 0;

  private constructor(options: NodeDoorOptions) {
    this.#options = options;
    this.#server = createServer(
      {
        key: options.certificate.keyPem,
        cert: options.certificate.certPem,
        minVersion: "TLSv1.3",
        ALPNProtocols: [limits.SUBPROTOCOL],
        handshakeTimeout: limits.HELLO_TIMEOUT_MS,
      },
      (socket) => this.#knock(socket),
    );
    // A handshake that fails is the stranger's business; its socket is closed by the server.
    this.#server.on("tlsClientError", (error) =>
      options.log.debug({ err: error }, "no TLS at the nodes' door"),
    );
  }

  /** Opens at the port, or at any other where that is taken: nodes read the address anew. */
  static async open(options: NodeDoorOptions): Promise<NodeDoor> {
    const door = new NodeDoor(options);
    try {
      await door.#listen(options.port);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || options.port === 0) throw error;
      options.log.warn({ port: options.port }, "the port of the nodes' door is taken; another is used");
      await door.#listen(0);
    }
    return door;
  }

  get port(): number {
    return this.#port;
  }

  /** Where nodes find it: the interface that was chosen, or all that lead out of this machine. */
  get addresses(): CallbackAddress[] {
    const { port } = this;
    const { host } = this.#options;
    if (host !== "0.0.0.0" && host !== "::") return [{ host, port }];
    const out = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      // A link-local address means nothing on another machine.
      .filter((one) => !one.internal && !one.address.startsWith("fe80"))
      .sort((a, b) => a.family.localeCompare(b.family));
    return (out.length > 0 ? out.map((one) => one.address) : ["127.0.0.1"]).map((host) => ({ host, port }));
  }

  /** No new connections; those of strangers end, those of nodes are their owner's. */
  close(): void {
    for (const port of this.#strangers) port.close("the agent stops");
    this.#server.close();
  }

  #listen(port: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(port, this.#options.host, () => {
        this.#server.off("error", reject);
        this.#port = (this.#server.address() as AddressInfo).port;
        resolve();
      });
    });
  }

  #knock(socket: TLSSocket): void {
    if (this.#strangers.size >= MAX_STRANGERS) {
      socket.on("error", () => undefined);
      socket.destroy();
      return;
    }
    const port = new StreamPort(socket, FRAMES_UP.agent, MAX_HELLO_BYTES);
    this.#strangers.add(port);
    const timer = setTimeout(() => port.close("no hello came"), limits.HELLO_TIMEOUT_MS);
    const known = (): void => {
      clearTimeout(timer);
      this.#strangers.delete(port);
    };
    port.onClose(known);
    port.onFrame((frame: Frame) => {
      known();
      if (frame.t === "hello" && frame.role === "node") this.#options.onHello(frame, port);
      else port.close("the first frame is no node's hello");
    });
  }
}
