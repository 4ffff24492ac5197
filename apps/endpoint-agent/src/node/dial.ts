/**
 * The dial of a node to its agent. TLS 1.3; the certificate must be the one whose SHA-256 the block's parameters name,
 * and nothing is sent, not even who is there, before that is sure. Names, dates and authorities play no part.
 */
import { timingSafeEqual } from "node:crypto";
import { connect, type TLSSocket } from "node:tls";
import { limits } from "@farloom/protocol";
import type { CallbackAddress } from "../blocks/parameters.js";
import { fingerprintOf } from "../nodes/certificate.js";

/** To the next address after this: an interface that drops packets must not hide one that answers. */
const CONNECT_TIMEOUT_MS = 5_000;

export type Dialled =
  | { readonly ok: true; readonly socket: TLSSocket }
  | { readonly ok: false; readonly message: string };

/** The first of the addresses that answers with the right certificate. An expected failure is a value. */
export async function dialAgent(
  addresses: readonly CallbackAddress[],
  fingerprint: string,
  signal: AbortSignal,
): Promise<Dialled> {
  const reasons: string[] = [];
  for (const address of addresses) {
    if (signal.aborted) break;
    const dialled = await dialOne(address, fingerprint, signal);
    if (dialled.ok) return dialled;
    reasons.push(`${address.host}:${address.port}: ${dialled.message}`);
  }
  return { ok: false, message: reasons.join("; ") || "stopped" };
}

function dialOne(
  { host, port }: CallbackAddress,
  fingerprint: string,
  signal: AbortSignal,
): Promise<Dialled> {
  return new Promise((resolve) => {
    const socket = connect({
      host,
      port,
      minVersion: "TLSv1.3",
      ALPNProtocols: [limits.SUBPROTOCOL],
      // Judged below, by the fingerprint alone.
      rejectUnauthorized: false,
    });
    const finish = (dialled: Dialled): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      socket.off("error", fail).off("close", abort);
      if (!dialled.ok) {
        // A late error must not end the process.
        socket.on("error", () => undefined);
        socket.destroy();
      }
      resolve(dialled);
    };
    const abort = (): void => finish({ ok: false, message: "the connection was closed" });
    const fail = (error: Error): void => finish({ ok: false, message: error.message });
    const timer = setTimeout(
      () => finish({ ok: false, message: `no answer in ${CONNECT_TIMEOUT_MS / 1000} s` }),
      CONNECT_TIMEOUT_MS,
    );
    signal.addEventListener("abort", abort, { once: true });
    socket.once("error", fail).once("close", abort);
    socket.once("secureConnect", () => {
      const shown = socket.getPeerX509Certificate();
      const isAgent = shown !== undefined && isSame(fingerprintOf(shown.raw), fingerprint);
      finish(
        isAgent
          ? { ok: true, socket }
          : { ok: false, message: "its certificate is not that of the agent of this block" },
      );
    });
  });
}

function isSame(a: string, b: string): boolean {
  const [one, other] = [Buffer.from(a), Buffer.from(b)];
  return one.length === other.length && timingSafeEqual(one, other);
}
