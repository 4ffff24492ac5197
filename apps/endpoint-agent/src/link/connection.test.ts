import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, it } from "vitest";
import { Connection } from "./connection.js";

let server: Server;
let answer = "";

beforeEach(async () => {
  server = createServer();
  server.on("upgrade", (_request, socket) => socket.end(answer));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const refusal = async (head: string, body: string) => {
  answer = `HTTP/1.1 ${head}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`;
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/v1/agent-link`;
  const opened = await Connection.open(url, "token", AbortSignal.timeout(10_000));
  return opened.ok
    ? "open"
    : { code: opened.code, message: opened.message, retryAfterMs: opened.retryAfterMs };
};

it("a link that the service refuses to open is refused with its code, its words and its wait", async () => {
  const problem = { type: "about:blank", status: 503, code: "OVERLOADED", detail: "too many links" };
  expect(
    await refusal(
      "503 OVERLOADED\r\nContent-Type: application/problem+json\r\nRetry-After: 5",
      JSON.stringify(problem),
    ),
  ).toEqual({ code: "OVERLOADED", message: "too many links", retryAfterMs: 5_000 });
});

it("what something before the service answers is told by its status", async () => {
  const told = await refusal("502 Bad Gateway", "<html>no</html>");
  expect(told).toMatchObject({ code: "HTTP_502", message: expect.stringContaining("answered 502") });
});
