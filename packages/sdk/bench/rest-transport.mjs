/**
 * Why REST runs on node:http: CPU of the client for 1 MiB up and down, against fetch, from a server in a process
 * of its own.
 */
import { fork } from "node:child_process";
import { Agent, createServer, request } from "node:http";
import { fileURLToPath } from "node:url";

const MEGABYTE = Buffer.alloc(1024 * 1024, 120);

if (process.argv[2] === "server") {
  createServer((incoming, outgoing) => {
    incoming.resume();
    incoming.on("end", () => outgoing.end(incoming.method === "PUT" ? "" : MEGABYTE));
  }).listen(0, "127.0.0.1", function () {
    process.send(this.address().port);
  });
} else {
  const child = fork(fileURLToPath(import.meta.url), ["server"]);
  const port = await new Promise((resolve) => child.once("message", resolve));
  const agent = new Agent({ keepAlive: true });
  const viaHttp = (method, body) =>
    new Promise((resolve, reject) => {
      const outgoing = request({
        port,
        host: "127.0.0.1",
        method,
        agent,
        headers: body ? { "content-length": body.length } : {},
      });
      outgoing.on("error", reject);
      outgoing.on("response", (incoming) => {
        const whole = Buffer.allocUnsafe(Number(incoming.headers["content-length"] ?? 0));
        let size = 0;
        incoming.on("data", (chunk) => {
          if (size + chunk.length <= whole.length) chunk.copy(whole, size);
          size += chunk.length;
        });
        incoming.on("end", () => resolve(whole));
      });
      outgoing.end(body);
    });
  const viaFetch = async (method, body) =>
    Buffer.from(
      await (await fetch(`http://127.0.0.1:${port}/`, { method, ...(body && { body }) })).arrayBuffer(),
    );
  for (let round = 0; round < 2; round++) {
    for (const [name, send] of [
      ["node:http", viaHttp],
      ["fetch", viaFetch],
    ]) {
      for (const [method, body] of [
        ["PUT", MEGABYTE],
        ["GET", undefined],
      ]) {
        const before = process.cpuUsage();
        for (let i = 0; i < 100; i++) await send(method, body);
        const { user, system } = process.cpuUsage(before);
        console.log(`${name.padEnd(10)} ${method} 1 MiB  ${((user + system) / 100_000).toFixed(2)} ms CPU`);
      }
    }
  }
  child.kill();
  process.exit(0);
}
