import { createServer } from "node:net";
import pg from "pg";
import { pino } from "pino";
import { expect, it } from "vitest";
import { type AuditEvent, AuditLog } from "./log.js";

const event: AuditEvent = {
  ownerId: "",
  actor: "ann",
  credential: "k",
  action: "keys.create",
  target: "x",
  origin: "127.0.0.1",
  status: 201,
  code: "",
  detail: "{}",
};

it("refuses changes while it cannot be written and 10,000 entries wait", async () => {
  // A port at which nobody listens: it was free a moment ago.
  const probe = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => probe.once("listening", resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  const pool = new pg.Pool({ host: "127.0.0.1", port, connectionTimeoutMillis: 500 });
  const log = new AuditLog(pool, pino({ level: "silent" }));
  for (let i = 0; i < 9_999; i++) void log.append(event);
  expect(() => log.requireRoom()).not.toThrow();
  void log.append(event);
  expect(() => log.requireRoom()).toThrow(/audit log cannot be written/);
  log.close();
  await log.idle();
  await pool.end();
});
