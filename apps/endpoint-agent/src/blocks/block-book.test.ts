import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HelloFrame } from "@farloom/protocol";
import { afterEach, beforeEach, expect, it } from "vitest";
import { BlockBook } from "./block-book.js";

let dir: string;
let book: BlockBook;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-book-"));
  book = new BlockBook(join(dir, "book.json"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const token = (): string => randomBytes(32).toString("base64url");
/** What the agent says to a hello with these fields: the node's name, or why not. */
function knock(fields: Partial<HelloFrame>, at = book): string {
  const answer = at.admit({ t: "hello", role: "node", versions: [1], caps: [], software: "", ...fields });
  return answer.ok ? answer.node : `no: ${answer.reason}`;
}

it("admits each node of a block once by the secret, and again by its own token alone (B3)", () => {
  const { entry, secret } = book.add(2, 4);
  const block = entry.id;
  const [a, b] = [token(), token()];
  expect(knock({ block, node: "n0", token: a, secret })).toBe(`${block}/n0`);
  // Its welcome was lost: it says the same again.
  expect(knock({ block, node: "n0", token: a, secret })).toBe(`${block}/n0`);
  expect(knock({ block, node: "n0", token: a })).toBe(`${block}/n0`);
  expect(knock({ block, node: "n0", token: b, secret })).toMatch(/used for this node already/);
  expect(knock({ block, node: "n0", token: b })).toMatch(/wrong/);
  expect(knock({ block, node: "n1", token: b, secret: token() })).toMatch(/wrong/);
  expect(knock({ block, node: "n1", token: b, secret })).toBe(`${block}/n1`);
  expect(knock({ block, node: "n2", token: token(), secret })).toMatch(/as many nodes/);
  expect(knock({ block, node: "n1", token: a })).toMatch(/wrong/);
});

it("admits nobody without a name, a token or a block", () => {
  const { entry, secret } = book.add(1, 1);
  expect(knock({ block: entry.id, node: "../n", token: token(), secret })).toMatch(/name/);
  expect(knock({ block: entry.id, node: "n", token: "short", secret })).toMatch(/token/);
  expect(knock({ block: "other", node: "n", token: token(), secret })).toMatch(/not known/);
  expect(knock({})).toMatch(/not known/);
});

it("never admits a node again that was given up, nor one of a block that is over", () => {
  const { entry, secret } = book.add(2, 1);
  const known = token();
  const name = knock({ block: entry.id, node: "n0", token: known, secret });
  book.giveUp(name);
  expect(knock({ block: entry.id, node: "n0", token: known })).toMatch(/given up/);
  expect(knock({ block: entry.id, node: "n0", token: known, secret })).toMatch(/used/);
  book.remove(entry.id);
  expect(knock({ block: entry.id, node: "n1", token: token(), secret })).toMatch(/not known/);
});

it("a block that its batch system starts again gets new nodes, and fences the old ones (B4)", () => {
  const { entry, secret } = book.add(1, 1);
  const block = entry.id;
  const old = token();
  knock({ block, node: "n0", token: old, secret });
  const fresh = token();
  const answer = book.admit({
    t: "hello",
    role: "node",
    versions: [1],
    caps: [],
    software: "",
    block,
    node: "n0",
    token: fresh,
    secret,
    restart: 1,
  });
  expect(answer).toEqual({ ok: true, block, node: `${block}/n0~1`, fenced: [`${block}/n0`] });
  expect(knock({ block, node: "n0", token: old })).toMatch(/^no/);
  expect(knock({ block, node: "n9", token: token(), secret })).toMatch(/started again/);
  expect(knock({ block, node: "n1", token: token(), secret, restart: 1 })).toMatch(/as many nodes/);
  expect(knock({ block, node: "n0", token: fresh, restart: 1 })).toBe(`${block}/n0~1`);
});

it("knows all that over a restart, keeps neither secret nor token, and is nobody else's to read (B1, B2)", () => {
  const { entry, secret } = book.add(1, 1);
  const known = token();
  const name = knock({ block: entry.id, node: "n0", token: known, secret });
  const path = join(dir, "book.json");
  const text = readFileSync(path, "utf8");
  expect(text).not.toContain(secret);
  expect(text).not.toContain(known);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const later = new BlockBook(path);
  expect(knock({ block: entry.id, node: "n0", token: known }, later)).toBe(name);
  expect(knock({ block: entry.id, node: "n0", token: token(), secret }, later)).toMatch(/used/);
});
