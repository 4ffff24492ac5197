/**
 * The door for WebSockets. Who comes is known before the upgrade (a socket that was upgraded first would hold
 * memory for strangers), and every path has its policy here or does not exist.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import type { Logger } from "pino";
import { WebSocketServer } from "ws";
import type { OwnHosts } from "../http/own-hosts.js";
import { refusalBytes } from "../http/unrouted.js";
import { assertFramePolicies } from "./frame-policy.js";
import type { Upgraded } from "./frame-socket.js";

export interface LinkRoute<Who> {
  readonly path: string;
  /** Throws FarloomError where the credential does not admit. */
  readonly admit: (request: IncomingMessage) => Promise<Who>;
  /** Whose it is: each person has so many at most. */
  readonly ownerOf: (who: Who) => string;
  readonly open: (upgraded: Upgraded, who: Who) => void;
}

const FULL_RETRY_MS = 5_000;

/** Serves the routes on `server`'s upgrade event. Returns a function that closes the door. */
export function serveLinks(
  server: Server,
  // biome-ignore lint/suspicious/noExplicitAny: each route pairs its own admit and open.
  routes: readonly LinkRoute<any>[],
  {
    log,
    hosts,
    maxLinks,
    maxLinksPerOwner,
  }: {
    readonly log: Logger;
    readonly hosts: OwnHosts;
    readonly maxLinks: number;
    readonly maxLinksPerOwner: number;
  },
): () => void {
  assertFramePolicies();
  const wss = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: limits.MAX_FRAME_BYTES,
    handleProtocols: (offered) => (offered.has(limits.SUBPROTOCOL) ? limits.SUBPROTOCOL : false),
  });
  let open = true;
  /** Links by person; as many entries as there are links at most. */
  const links = new Map<string, number>();

  const onUpgrade = async (request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> => {
    socket.on("error", () => socket.destroy());
    const path = (request.url ?? "").split("?", 1)[0];
    const route = routes.find((r) => r.path === path);
    try {
      if (!open) throw new FarloomError("DRAINING");
      hosts.require(request.headers.host, request.socket.localAddress);
      if (!route)
        throw new FarloomError("ROUTE_NOT_FOUND", { method: "GET", path: String(path).slice(0, 100) });
      const offered = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((p) => p.trim());
      if (!offered.includes(limits.SUBPROTOCOL)) {
        throw new FarloomError("VERSION_UNSUPPORTED", { detail: `the subprotocol is ${limits.SUBPROTOCOL}` });
      }
      const who = await route.admit(request);
      if (socket.destroyed) return;
      // Idle sockets cost memory too. Who is refused here comes again, perhaps to another replica.
      if (wss.clients.size >= maxLinks)
        throw new FarloomError(
          "OVERLOADED",
          { detail: `${maxLinks} links are open` },
          { retryAfterMs: FULL_RETRY_MS },
        );
      const owner = route.ownerOf(who);
      const own = links.get(owner) ?? 0;
      if (own >= maxLinksPerOwner)
        throw new FarloomError(
          "OVERLOADED",
          { detail: `your account has ${own} links open here` },
          { retryAfterMs: FULL_RETRY_MS },
        );
      wss.handleUpgrade(request, socket, head, (ws) => {
        links.set(owner, (links.get(owner) ?? 0) + 1);
        ws.once("close", () => {
          const left = (links.get(owner) ?? 1) - 1;
          if (left > 0) links.set(owner, left);
          else links.delete(owner);
        });
        route.open({ ws, stream: socket }, who);
      });
    } catch (error) {
      refuse(
        socket,
        error instanceof FarloomError ? error : new FarloomError("NOT_READY", {}, { cause: error }),
        log,
      );
    }
  };
  const listener = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    void onUpgrade(request, socket, head);
  };
  server.on("upgrade", listener);
  return () => {
    open = false;
    wss.close();
  };
}

function refuse(socket: Duplex, error: FarloomError, log: Logger): void {
  // A credential that does not admit is no failure of the service, whatever caused it.
  if (error.cause && error.status >= 500) log.error({ err: error.cause }, "an upgrade failed");
  socket.end(refusalBytes(error));
}
