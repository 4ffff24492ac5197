/** The first two frames of a link (P6–P8): the agent says who it is and what it holds; the service takes it or not. */
import { agree, CAPABILITIES, type HelloFrame, limits, type WelcomeFrame } from "@farloom/protocol";
import type { Connection, ConnectionListener, DownFrame, EndReason } from "./connection.js";

export type HandshakeOutcome =
  | { readonly ok: true; readonly welcome: WelcomeFrame }
  | ({ readonly ok: false } & EndReason);

/**
 * Says hello and waits for the answer. On success `next` is the connection's listener before another frame can
 * come: the service may send the first one in the same packet as its welcome.
 */
export function shakeHands(
  connection: Connection,
  hello: HelloFrame,
  next: (welcome: WelcomeFrame) => ConnectionListener,
): Promise<HandshakeOutcome> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      connection.close("LINK_SILENT", "no welcome came");
    }, limits.HELLO_TIMEOUT_MS);
    const settle = (outcome: HandshakeOutcome): void => {
      clearTimeout(timer);
      resolve(outcome);
    };
    connection.listen({
      onWritable: () => {},
      onEnd: (reason) => settle({ ok: false, ...reason }),
      onFrame: (frame: DownFrame) => {
        if (frame.t === "refuse" || frame.t === "bye") {
          const { code, message } = frame;
          const retryAfterMs = frame.t === "refuse" ? frame.retryAfterMs : undefined;
          settle({ ok: false, code, message, retryAfterMs });
          connection.close(code, "refused");
          return;
        }
        if (frame.t !== "welcome") return; // P4: out of its phase, ignored.
        const common = agree({ versions: [frame.version], caps: frame.caps }, { caps: CAPABILITIES });
        if (!common.ok) {
          settle(common);
          connection.close(common.code, common.message);
          return;
        }
        connection.keepAlive(frame);
        connection.listen(next(frame));
        settle({ ok: true, welcome: frame });
      },
    });
    connection.send(hello);
  });
}
