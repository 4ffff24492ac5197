// How an endpoint's agent comes to its key, changes it and loses it: one code for one agent however many bring it to however
// many replicas, another key signed by the one before, and an end at once on connections that are open.
import { spawn } from "node:child_process";
import { generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { errorMessage, FRAMES_DOWN, limits } from "@farloom/protocol";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { enroll } from "../../apps/endpoint-agent/src/enrolment.js";
import { Enrolment } from "../../apps/web-service/src/endpoints/enrolment.js";
import type { Identity } from "../../apps/web-service/src/identity/identity.js";
import { agentToken, makeAgentKeys } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const AGENT = join(import.meta.dirname, "../../apps/endpoint-agent/dist/bundle/main.js");
/** Replicas, each with a pool of its own, and how many bring the same code to each. */
const REPLICAS = 4;
const EACH = 125;
/** Processes that bring one code to one service, how often each, and over how many connections that stay open. */
const RACERS = 2;
const TRIES = 5_000;
const LINES = 150;
const RACER = join(import.meta.dirname, "../support/enrolment-racer.mjs");

let rest: RestService;
let nobody: RestClient;

beforeAll(async () => {
  // Of one address only so many wrong codes are taken in a minute: here all meet the code itself.
  rest = await startRestService({ failedAuthPerMinute: 1_000_000 });
  nobody = new RestClient(rest.url, undefined);
}, 60_000);
afterAll(() => rest?.close());

const enrolled = async (name: string) => {
  const { body: made } = await rest.api.post("/v1/endpoints", { name });
  const keys = makeAgentKeys();
  const { publicKey } = keys;
  expect((await nobody.post("/v1/endpoints/enroll", { code: made.enrolmentCode, publicKey })).status).toBe(
    200,
  );
  return { id: made.id as string, code: made.enrolmentCode as string, keys };
};
/** An agent's connection that is open, and what it hears. */
const connected = async (id: string, privateKey: Parameters<typeof agentToken>[2]) => {
  const token = await agentToken(rest.url, id, privateKey);
  const peer = await FramePeer.open(
    { url: rest.url, path: limits.AGENT_LINK_PATH, token, kinds: FRAMES_DOWN.agent },
    () => {},
  );
  return { peer, token };
};
const endsWithin5s = async (peer: FramePeer) => {
  const atMs = performance.now();
  await peer.until(() => peer.of("bye").length > 0, "a bye");
  expect([performance.now() - atMs < 5_000, peer.of("bye")[0]!.code]).toEqual([true, "CREDENTIAL_REVOKED"]);
  await peer.close();
};

describe("an enrolment code", () => {
  it("that is no good is refused in the service's words, which say what to do", async () => {
    const code = `fle_${"0".repeat(32)}_${"A".repeat(32)}`;
    const refused = await enroll({
      serviceUrl: rest.url,
      code,
      stateDir: join(rest.stateDir, "agent"),
    }).catch((error: Error) => error);
    expect(refused).toMatchObject({
      message: expect.stringContaining(errorMessage("ENROLMENT_CODE_INVALID")),
    });
  });

  it(`brought ${REPLICAS * EACH} times at once, through the pools of ${REPLICAS} replicas, makes one agent`, async () => {
    const { body: made } = await rest.api.post("/v1/endpoints", { name: "raced" });
    const pools = Array.from(
      { length: REPLICAS },
      () => new pg.Pool({ connectionString: rest.database.url, max: 10 }),
    );
    try {
      const clock = { nowMs: () => Date.now() };
      const desks = pools.map((pool) => new Enrolment({ pool } as never, { clock } as unknown as Identity));
      const keys = Array.from({ length: REPLICAS * EACH }, () =>
        generateKeyPairSync("ed25519").publicKey.export({ format: "der", type: "spki" }).subarray(-32),
      );
      const answers = await Promise.allSettled(
        keys.map((publicKey, at) => desks[at % REPLICAS]!.enroll({ code: made.enrolmentCode, publicKey })),
      );
      const won = answers.flatMap(({ status }, at) => (status === "fulfilled" ? [at] : []));
      expect(won).toHaveLength(1);
      const codes = new Set(answers.flatMap((a) => (a.status === "rejected" ? [a.reason.code] : [])));
      expect([...codes]).toEqual(["ENROLMENT_CODE_INVALID"]);
      const { rows } = await rest.database.pool.query("SELECT public_key FROM endpoint WHERE id = $1", [
        made.id,
      ]);
      expect(rows[0].public_key.equals(keys[won[0]!])).toBe(true);
    } finally {
      for (const pool of pools) await pool.end();
    }
  }, 60_000);

  it(`brought ${RACERS * TRIES} times over ${RACERS * LINES} connections makes one agent, and all others are refused alike`, async () => {
    const { body: made } = await rest.api.post("/v1/endpoints", { name: "raced-by-http" });
    const race = [rest.url, made.enrolmentCode, String(TRIES), String(LINES)];
    const racers = Array.from({ length: RACERS }, () =>
      spawn(process.execPath, [RACER, ...race], { stdio: ["pipe", "pipe", "inherit"] }),
    );
    try {
      const said = racers.map(({ stdout }) => createInterface(stdout)[Symbol.asyncIterator]());
      const next = () => Promise.all(said.map(async (lines) => JSON.parse((await lines.next()).value)));
      expect(await next()).toEqual(racers.map(() => "connected"));
      for (const { stdin } of racers) stdin.end("go\n");
      const counts = (await next()) as { won: string[]; refusals: Record<string, number> }[];
      const won = counts.flatMap((count) => count.won);
      expect(won).toHaveLength(1);
      const refused = counts.flatMap(({ refusals }) => Object.entries(refusals));
      expect(new Set(refused.map(([answer]) => answer)).size, JSON.stringify(refused)).toBe(1);
      expect(refused[0]![0]).toContain(errorMessage("ENROLMENT_CODE_INVALID"));
      expect(refused.reduce((sum, [, n]) => sum + n, 0)).toBe(RACERS * TRIES - 1);
      const { rows } = await rest.database.pool.query(
        "SELECT public_key, enrol_hash FROM endpoint WHERE id = $1",
        [made.id],
      );
      expect(rows).toEqual([{ public_key: Buffer.from(won[0]!, "base64"), enrol_hash: null }]);
      const audited = await rest.database.pool.query(
        "SELECT 1 FROM audit_entry WHERE action = 'endpoints.enroll' AND target = $1",
        [made.id],
      );
      expect(audited.rowCount).toBe(1);
    } finally {
      for (const racer of racers) racer.kill("SIGKILL");
    }
  }, 180_000);

  it("is for its endpoint of its owner, is void once another was made, and after ten minutes", async () => {
    const { body: first } = await rest.api.post("/v1/endpoints", { name: "lab" });
    const enrol = (code: string, name?: string) =>
      nobody.post("/v1/endpoints/enroll", {
        code,
        publicKey: makeAgentKeys().publicKey,
        ...(name && { name }),
      });
    expect((await enrol(first.enrolmentCode, "elsewhere")).status, "another endpoint's name").toBe(400);
    const { body: second } = await rest.api.post("/v1/endpoints/lab/enrolment-code");
    expect((await enrol(first.enrolmentCode)).body.code).toBe("ENROLMENT_CODE_INVALID");
    const leftMs = Date.parse(second.enrolmentExpiresAt) - Date.now();
    expect(Math.abs(leftMs - 600_000)).toBeLessThan(30_000);
    await rest.database.pool.query(
      "UPDATE endpoint SET enrol_expires_at = now() - interval '1 second' WHERE id = $1",
      [second.id],
    );
    expect((await enrol(second.enrolmentCode)).body.code).toBe("ENROLMENT_CODE_INVALID");
  });
});

describe("an agent's key", () => {
  it("is followed by another that both have signed; what the old one opened ends, and it opens nothing more", async () => {
    const { id, keys: old } = await enrolled("rekeyed");
    const { peer, token } = await connected(id, old.privateKey);
    const next = makeAgentKeys();
    const attempt = async (signers: readonly (typeof old)[]) => {
      const { nonce } = (await nobody.post(`/v1/endpoints/${id}/challenge`)).body;
      const publicKey = Buffer.from(next.publicKey, "base64").toString("base64url");
      const text = Buffer.from(`farloom-rekey-v1\n${new URL(rest.url).host}\n${id}\n${nonce}\n${publicKey}`);
      const [signature, newSignature] = signers.map(({ privateKey }) =>
        sign(null, text, privateKey).toString("base64url"),
      );
      const body = { nonce, publicKey, signature, newSignature };
      return { reply: await nobody.post(`/v1/endpoints/${id}/rekey`, body), body };
    };
    const stranger = makeAgentKeys();
    expect((await attempt([stranger, next])).reply.body.code).toBe("SIGNATURE_INVALID");
    expect((await attempt([old, stranger])).reply.body.code, "nobody has the new key").toBe(
      "SIGNATURE_INVALID",
    );
    const { reply, body } = await attempt([old, next]);
    expect(reply).toMatchObject({ status: 200, body: { name: "rekeyed", owner: "me" } });
    expect((await nobody.post(`/v1/endpoints/${id}/rekey`, body)).body.code, "again").toBe(
      "CHALLENGE_INVALID",
    );
    await endsWithin5s(peer);
    const { status } = await new RestClient(rest.url, token).get(`/v1/payloads/${"0".repeat(64)}`);
    expect(status, "a token of the old key").toBe(401);
    expect(await agentToken(rest.url, id, old.privateKey)).toBeUndefined();
    expect(await agentToken(rest.url, id, next.privateKey)).toBeTypeOf("string");
  });

  it("is taken away at once by its owner: the open connection ends, nothing connects, and a new code makes a new agent", async () => {
    const { id, keys } = await enrolled("stolen");
    const { peer } = await connected(id, keys.privateKey);
    expect((await rest.api.post("/v1/endpoints/stolen/revoke")).status).toBe(204);
    await endsWithin5s(peer);
    expect((await nobody.post(`/v1/endpoints/${id}/challenge`)).body.code).toBe("ENDPOINT_NOT_FOUND");
    const { body } = await rest.api.post("/v1/endpoints/stolen/enrolment-code");
    const { publicKey } = makeAgentKeys();
    expect(
      (await nobody.post("/v1/endpoints/enroll", { code: body.enrolmentCode, publicKey })).body.endpointId,
    ).toBe(id);
    const { rows } = await rest.database.pool.query(
      "SELECT action FROM audit_entry WHERE action IN ('endpoints.revoke', 'endpoints.rekey') AND status < 300 ORDER BY seq",
    );
    expect(rows.map(({ action }) => action)).toEqual(["endpoints.rekey", "endpoints.revoke"]);
  });

  it("is changed by the agent's program, which goes on where it was cut off", async () => {
    const { body: made } = await rest.api.post("/v1/endpoints", { name: "program" });
    const stateDir = join(rest.stateDir, "agent");
    const run = async (...args: string[]) => {
      const child = spawn(process.execPath, [AGENT, ...args, "--state-dir", stateDir], {
        stdio: "ignore",
        env: { ...process.env, FARLOOM_ENROLMENT_CODE: made.enrolmentCode },
      });
      const [code] = await once(child, "exit");
      return code as number;
    };
    const enrol = ["enroll", "--service", rest.url];
    expect(await run(...enrol, "--code", made.enrolmentCode), "everybody may read arguments").toBe(2);
    expect(await run(...enrol)).toBe(0);
    const file = join(stateDir, "private-key.pem");
    const before = readFileSync(file, "utf8");
    expect(await run("rekey")).toBe(0);
    const after = readFileSync(file, "utf8");
    expect(after).not.toBe(before);
    // As if it had died after the service took the new key, and before the file had its place.
    renameSync(file, `${file}.next`);
    writeFileSync(file, before, { mode: 0o600 });
    expect(await run("rekey")).toBe(0);
    expect([readFileSync(file, "utf8"), existsSync(`${file}.next`)]).toEqual([after, false]);
  }, 60_000);
});
