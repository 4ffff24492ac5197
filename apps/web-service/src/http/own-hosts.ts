/**
 * What this service is called. A request names the host that its sender believes to speak to; one that names another is
 * not for us, whatever credential it has:
 *
 *   1. A page whose name was made to lead to this machine (DNS rebinding) reads and does nothing here: its browser
 *      names the page's host.
 *   2. What an agent signed for another service is worth nothing here: whoever passes it on cannot have us go by that
 *      service's name.
 *
 * Ours are the host of the public URL, exactly, and, on any port (tunnels and proxies have others): loopback's names, the
 * address that the connection came to, this machine's name, the one that is listened on, and what is configured.
 */
import { hostname } from "node:os";
import { FarloomError } from "@farloom/protocol";
import type { Config } from "../config.js";

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

export class OwnHosts {
  readonly #known: ReadonlySet<string>;

  constructor({ publicUrl, host, allowedHosts }: Pick<Config, "publicUrl" | "host" | "allowedHosts">) {
    const known = [hostname(), host, ...allowedHosts];
    if (publicUrl !== undefined) known.push(new URL(publicUrl).host);
    this.#known = new Set(known.map((name) => name.toLowerCase()));
  }

  /**
   * `host` is the header; one of HTTP/1.0 that has none comes from no browser. `localAddress` is the connection's.
   * @throws FarloomError HOST_REFUSED
   */
  require(host: string | undefined, localAddress: string | undefined): void {
    if (host === undefined) return;
    const whole = host.toLowerCase();
    const name = whole.replace(/:\d{1,5}$/, "");
    if (LOOPBACK.test(name) || this.#known.has(whole) || this.#known.has(name)) return;
    if (localAddress !== undefined && name === asHost(localAddress)) return;
    throw new FarloomError("HOST_REFUSED", { host: host.slice(0, 100) });
  }
}

/** An address as it stands in a URL. */
function asHost(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/, "");
  return plain.includes(":") ? `[${plain}]` : plain;
}
