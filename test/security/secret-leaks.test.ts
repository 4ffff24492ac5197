/**
 * No secret in a log, a command line, a file or an error: every fabric of the tests looks for them (test/support/fabric.ts, 5),
 * and so does every client. Here: what looks finds what is planted, wherever it is.
 */
import { spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { Fabric } from "../support/fabric.js";
import { freshDatabase } from "../support/postgres.js";
import { RestClient } from "../support/rest-client.js";
import { findSecrets, SecretWatch } from "../support/secret-watch.js";

const SERVICE = join(import.meta.dirname, "../../apps/web-service/dist/main.js");
const random = (bytes = 32): string => randomBytes(bytes).toString("base64url");
const hex = (bytes: number): string => randomBytes(bytes).toString("hex");
const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
const key = `fl_${hex(8)}_${random()}`;

describe("what looks for secrets", () => {
  const secrets: Readonly<Record<string, string>> = {
    "an API key": key,
    "a browser's cookie": `fls_ses-${hex(8)}_${random()}`,
    "a refresh token": `flr_ses-${hex(8)}_${random(16)}_${random()}`,
    "an account's one-time token": `fla_${random()}`,
    "a device code": `fld_${random()}`,
    "an enrolment code": `fle_${hex(16)}_${random(24)}`,
    "a signed token": `${encoded({ alg: "EdDSA", typ: "x" })}.${encoded({ sub: "somebody" })}.${random(64)}`,
    "a private key": generateKeyPairSync("ed25519").privateKey.export({
      format: "pem",
      type: "pkcs8",
    }) as string,
    "a password in a URL": `postgresql://farloom:${random(24)}@127.0.0.1:5432/farloom`,
    "a credential in a header": `Authorization: Bearer ${random(40)}`,
    // With letters of both cases and digits, as nearly all are.
    "32 random bytes": `${random().slice(0, 37)}aB3xY7`,
  };

  it.each(Object.entries(secrets))("finds %s in any text, and does not show it", (kind, secret) => {
    for (const text of [secret, `{"msg":"got ${secret} from"}`, `x=${secret}&y`, `--code\0${secret}\0`]) {
      const found = findSecrets("here", text);
      expect(
        found.map((finding) => finding.kind),
        text,
      ).toContain(kind);
      expect(JSON.stringify(found)).not.toContain(secret);
    }
  });

  it("takes ids, digests and names for what they are", () => {
    const text = `${hex(32)} ${hex(16)} 0197f000-0000-7000-8000-000000000001 fl_${hex(8)} https://a.example/x?y=1
      ${"a".repeat(43)} TestsOfAVeryLongNameThatHasNoDigitsAtAllInItX`;
    expect(findSecrets("here", text)).toEqual([]);
  });

  it("finds one without a form where it was told of it", () => {
    const watch = new SecretWatch();
    watch.know("correct horse battery", "a password");
    watch.look("a line", "logging in with correct horse battery");
    expect(watch.findings).toHaveLength(1);
  });
});

describe("a fabric", () => {
  it("fails where what one of its processes started has a secret in its command line", async () => {
    const watch = new SecretWatch();
    const parent = spawn("sh", ["-c", 'read key; sh -c "read line" -- "$key"; true'], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    const exited = new Promise((resolve) => parent.once("exit", resolve));
    try {
      watch.follow(parent.pid!);
      parent.stdin.write(`${key}\n`);
      await expect
        .poll(() => watch.findings, { timeout: 20_000 })
        .toEqual([expect.stringContaining("an API key in the command line of sh")]);
    } finally {
      watch.stop();
      // Its end ends both.
      parent.stdin.end();
      await exited;
    }
  });

  it("fails where a log or another file of its folder has one, and where a file that is to hold one is open to others", async () => {
    const fabric = await Fabric.open();
    const state = join(fabric.home, "agent-x");
    mkdirSync(state, { mode: 0o700 });
    writeFileSync(join(state, "agent.log"), `{"level":30,"token":"${key}"}\n`);
    writeFileSync(join(state, "private-key.pem"), "x", { mode: 0o644 });
    await expect(fabric.close()).rejects.toThrow(
      /an API key in the file agent-x\/agent\.log[\s\S]*others may read in .*private-key\.pem/,
    );
  });

  it("fails where a process writes one", async () => {
    const fabric = await Fabric.open();
    // Its refusal names the setting and what it was set to.
    await expect(fabric.service({ FARLOOM_PORT: key })).rejects.toThrow("FARLOOM_PORT");
    await expect(fabric.close()).rejects.toThrow("an API key in what web service writes");
  });
});

describe("the service", () => {
  it("puts the first administrator's token into a file of its own, where what it writes may be kept", async () => {
    const database = await freshDatabase();
    const stateDir = mkdtempSync(join(tmpdir(), "farloom-first-"));
    const service = spawn(process.execPath, [SERVICE], {
      env: {
        ...{ PATH: process.env.PATH ?? "", HOME: stateDir, FARLOOM_PORT: "0", FARLOOM_STATE_DIR: stateDir },
        ...{ DATABASE_URL: database.url, FARLOOM_TENANT_DATABASE_URL: database.tenantUrl },
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let said = "";
    for (const stream of [service.stdout, service.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => {
        said += text;
      });
    const exited = new Promise((resolve) => service.once("exit", resolve));
    try {
      await expect.poll(() => said, { timeout: 40_000 }).toContain("first-admin-token");
      const file = join(stateDir, "first-admin-token");
      expect(statSync(file).mode & 0o777).toBe(0o600);
      expect(readFileSync(file, "utf8")).toMatch(/^fla_[\w-]{43}\n$/);
      expect(findSecrets("what it writes", said)).toEqual([]);
    } finally {
      service.kill("SIGTERM");
      await exited;
      rmSync(stateDir, { recursive: true, force: true });
      await database.drop();
    }
  });
});

describe("a client", () => {
  let server: Server | undefined;
  afterEach(() => server?.close());
  afterAll(() => server?.closeAllConnections());

  it("fails where an error tells a secret, and where a path has one", async () => {
    server = createServer((request, response) => {
      response.writeHead(400, { "content-type": "application/problem+json" });
      response.end(JSON.stringify({ detail: request.url === "/told" ? `no ${key}` : "no" }));
    });
    await new Promise<void>((resolve) => server!.listen(0, "127.0.0.1", resolve));
    const client = new RestClient(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, key);
    expect((await client.get("/untold")).status).toBe(400);
    await expect(client.get("/told")).rejects.toThrow("an API key in an error");
    await expect(client.get(`/x?token=${key}`)).rejects.toThrow("an API key in a path");
  });
});
