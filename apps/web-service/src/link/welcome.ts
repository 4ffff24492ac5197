/** The service's half of the handshake, the same at both doors (P6, P7). */
import { randomUUID } from "node:crypto";
import {
  type Agreement,
  agree,
  CAPABILITIES,
  type FrameKind,
  type HelloFrame,
  limits,
} from "@farloom/protocol";
import { SOFTWARE } from "../support/version.js";
import type { FrameSocket } from "./frame-socket.js";

export type Agreed = Extract<Agreement, { ok: true }>;

/** What both sides have in common, or undefined where there is no version: then the peer was told, and is gone. */
export function agreeOrRefuse<K extends FrameKind>(
  socket: FrameSocket<K>,
  hello: HelloFrame,
): Agreed | undefined {
  const agreement = agree(hello, { caps: CAPABILITIES });
  if (agreement.ok) return agreement;
  socket.send({ t: "refuse", code: agreement.code, message: agreement.message });
  socket.end("VERSION_UNSUPPORTED", { detail: agreement.message });
  return undefined;
}

/** Opens the session. */
export function sendWelcome<K extends FrameKind>(socket: FrameSocket<K>, { version, caps }: Agreed): void {
  socket.send({
    t: "welcome",
    version,
    caps,
    session: randomUUID(),
    heartbeatMs: limits.HEARTBEAT_MS,
    deadAfterMs: limits.DEAD_AFTER_MS,
    maxFrameBytes: limits.MAX_FRAME_BYTES,
    software: SOFTWARE,
  });
}
