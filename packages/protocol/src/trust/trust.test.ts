import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { canonicalJson } from "../functions/definition.js";
import { isSignedBy, parseEnvelope, preAuthEncoding, publicKeyObject, signEnvelope } from "./dsse.js";
import {
  isEncryptedKey,
  makeSignKey,
  parsePublicKey,
  privateKeyText,
  publicKeyLine,
  readSignKey,
} from "./keys.js";
import {
  FUNCTION_PAYLOAD_TYPE,
  functionStatement,
  INVOCATION_PAYLOAD_TYPE,
  invocationStatement,
  optionsDigest,
  signFunction,
  signInvocation,
} from "./statements.js";

const vectors = JSON.parse(readFileSync(new URL("../../vectors/trust.json", import.meta.url), "utf8"));
const signer = readSignKey(vectors.key.pem);
const publicKey = publicKeyObject(signer.raw);

function parsed(text: string) {
  const read = parseEnvelope(text);
  if (!read.ok) throw new Error(read.why);
  return read.envelope;
}

describe("golden vectors of trust, shared with the Python tests", () => {
  it.each(vectors.pae as { type: string; payload: string; hex: string }[])(
    "encodes before it signs as DSSE says: $type",
    ({ type, payload, hex }) => {
      expect(preAuthEncoding(type, Buffer.from(payload)).toString("hex")).toBe(hex);
    },
  );

  it("has the encoding that the DSSE specification gives as its example", () => {
    expect(preAuthEncoding("http://example.com/HelloWorld", Buffer.from("hello world")).toString()).toBe(
      "DSSEv1 29 http://example.com/HelloWorld 11 hello world",
    );
  });

  it("tells the same key, line and id", () => {
    expect(publicKeyLine(signer.raw, "ada")).toBe(vectors.key.line);
    expect(parsePublicKey(vectors.key.line)).toEqual({
      raw: signer.raw,
      keyId: vectors.key.keyId,
      comment: "ada",
    });
  });

  it.each(vectors.functions as { statement: never; envelope: string }[])(
    "signs a function into the same envelope, and reads it back",
    ({ statement, envelope }) => {
      expect(signFunction(statement, signer)).toBe(envelope);
      expect(functionStatement(parsed(envelope))).toEqual(statement);
      expect(isSignedBy(parsed(envelope), publicKey)).toBe(true);
    },
  );

  it("signs an invocation into the same envelope, and reads it back", () => {
    const { statement, envelope, options } = vectors.invocation;
    expect(statement.options).toBe(optionsDigest(options));
    expect(signInvocation(statement, signer)).toBe(envelope);
    expect(invocationStatement(parsed(envelope))).toEqual(statement);
    expect(optionsDigest({ timeoutMs: 5, env: {} })).toBe(vectors.optionsOfNothing);
  });

  it.each(Object.entries(vectors.notEnvelopes as Record<string, string>))(
    "takes for no envelope: %s",
    (_name, text) => {
      expect(parseEnvelope(text).ok).toBe(false);
    },
  );

  it.each(vectors.notKeys as string[])("takes for no key: %s", (line) => {
    expect(parsePublicKey(line)).toHaveProperty("why");
  });
});

describe("an envelope", () => {
  const { envelope: text, statement } = vectors.functions[0];
  const fields = JSON.parse(text);

  it("is signed by no other key, and not where a byte of payload, type or signature is another", () => {
    expect(isSignedBy(parsed(text), publicKeyObject(makeSignKey().raw))).toBe(false);
    const changes = [
      { payload: Buffer.from(canonicalJson({ ...statement, name: "eve/simulate" })).toString("base64") },
      { payloadType: INVOCATION_PAYLOAD_TYPE },
      { payloadType: `${FUNCTION_PAYLOAD_TYPE}0` },
      { signatures: [{ ...fields.signatures[0], sig: Buffer.alloc(64).toString("base64") }] },
    ];
    for (const change of changes)
      expect(
        isSignedBy(parsed(canonicalJson({ ...fields, ...change })), publicKey),
        JSON.stringify(change),
      ).toBe(false);
  });

  it("of one type is no statement of the other", () => {
    const body = Buffer.from(fields.payload, "base64");
    expect(functionStatement(parsed(signEnvelope(INVOCATION_PAYLOAD_TYPE, body, signer)))).toBeUndefined();
    expect(invocationStatement(parsed(signEnvelope(INVOCATION_PAYLOAD_TYPE, body, signer)))).toBeUndefined();
  });

  it("holds a statement of exactly its fields, each of its form", () => {
    const read = (value: unknown) =>
      functionStatement(
        parsed(signEnvelope(FUNCTION_PAYLOAD_TYPE, Buffer.from(canonicalJson(value)), signer)),
      );
    expect(read(statement)).toEqual(statement);
    for (const bad of [
      { ...statement, more: 1 },
      { ...statement, function: "AB".repeat(32) },
      { ...statement, function: "ab" },
      { ...statement, name: "simulate" },
      { ...statement, name: "ada/*" },
      { ...statement, created: -1 },
      { ...statement, expires: "never" },
      { function: statement.function, name: statement.name },
      [],
      null,
    ])
      expect(read(bad), JSON.stringify(bad)).toBeUndefined();
    const twice = Buffer.from(canonicalJson(statement).replace('"function"', '"created":1,"function"'));
    expect(functionStatement(parsed(signEnvelope(FUNCTION_PAYLOAD_TYPE, twice, signer)))).toBeUndefined();
  });

  it("of an invocation has all of its fields", () => {
    const { statement: call } = vectors.invocation;
    for (const name of Object.keys(call)) {
      const { [name]: _, ...rest } = call;
      const text = signEnvelope(INVOCATION_PAYLOAD_TYPE, Buffer.from(canonicalJson(rest)), signer);
      expect(invocationStatement(parsed(text)), name).toBeUndefined();
    }
  });
});

describe("a private key", () => {
  it("is a file that reads back, under its passphrase where it has one", () => {
    const key = makeSignKey();
    expect(readSignKey(privateKeyText(key)).raw).toEqual(key.raw);
    const sealed = privateKeyText(key, "correct horse");
    expect(isEncryptedKey(sealed)).toBe(true);
    expect(readSignKey(sealed, "correct horse").raw).toEqual(key.raw);
    expect(() => readSignKey(sealed)).toThrow(/no passphrase/);
    expect(() => readSignKey(sealed, "wrong")).toThrow(/passphrase is wrong/);
    expect(() => readSignKey("nothing")).toThrow(/no PEM/);
  });
});
