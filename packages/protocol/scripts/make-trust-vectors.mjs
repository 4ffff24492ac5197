/**
 * Writes vectors/trust.json: keys, statements and the envelopes that they give, and texts that are none. TypeScript and
 * Python tests read the same file. Run after a deliberate change: node packages/protocol/scripts/make-trust-vectors.mjs
 */
import { createPrivateKey } from "node:crypto";
import { writeFileSync } from "node:fs";
import {
  canonicalJson,
  FUNCTION_PAYLOAD_TYPE,
  INVOCATION_PAYLOAD_TYPE,
  optionsDigest,
  preAuthEncoding,
  publicKeyLine,
  readSignKey,
  signFunction,
  signInvocation,
} from "../dist/index.js";

const seed = Buffer.from(Array.from({ length: 32 }, (_, i) => i));
const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
const pem = createPrivateKey({ key: der, format: "der", type: "pkcs8" })
  .export({ type: "pkcs8", format: "pem" })
  .toString();
const signer = readSignKey(pem);

const fn = { function: "ab".repeat(32), name: "ada/simulate@3", created: 1_790_000_000 };
const functions = [fn, { ...fn, name: "ada/simulate", expires: 1_800_000_000 }];
const options = { env: { LANG: "C", A: "ü" }, cwd: "/tmp" };
const invocation = {
  task: "01900000-0000-8000-8001-020304000007",
  function: "ab".repeat(32),
  endpoint: "0b6a3f0e-1111-4222-8333-444455556666",
  arguments: "cd".repeat(32),
  codec: 3,
  options: optionsDigest(options),
  attempts: 2,
  expires: 1_790_003_600,
  key: signer.keyId,
};

const good = signFunction(fn, signer);
const envelope = JSON.parse(good);
const [one] = envelope.signatures;
const changed = (fields) => canonicalJson({ ...envelope, ...fields });
/** The last digit of the padding changed: the same bytes to a lenient reader. */
const lenient = (text) =>
  text.replace(/(.)(=+)$/, (_, c, pad) => String.fromCharCode(c.charCodeAt(0) + 1) + pad);
const notEnvelopes = {
  "not JSON": good.slice(0, -1),
  "spaces between": good.replaceAll('","', '", "'),
  "other order of fields": JSON.stringify({
    payloadType: envelope.payloadType,
    payload: envelope.payload,
    signatures: envelope.signatures,
  }),
  "a field twice": good.replace('"payloadType"', '"payload":"e30=","payloadType"'),
  "one field more": changed({ alg: "none" }),
  "no signature": changed({ signatures: [] }),
  "a null signature": changed({ signatures: [{ ...one, sig: null }] }),
  "signature of 63 bytes": changed({
    signatures: [{ ...one, sig: Buffer.from(one.sig, "base64").subarray(1).toString("base64") }],
  }),
  "signature with a field more": changed({ signatures: [{ ...one, alg: "none" }] }),
  "signature in base64url": changed({
    signatures: [{ ...one, sig: Buffer.from(one.sig, "base64").toString("base64url") }],
  }),
  "signature in lenient base64": changed({ signatures: [{ ...one, sig: lenient(one.sig) }] }),
  "five signatures": changed({ signatures: Array(5).fill(one) }),
  "too large": changed({ payload: "A".repeat(4096) }),
  "a list": canonicalJson([envelope]),
  "not ASCII": changed({ signatures: [{ ...one, keyid: "ü" }] }),
};

const smallOrder = [
  "00".repeat(32),
  `${"00".repeat(31)}80`,
  `01${"00".repeat(31)}`,
  `01${"00".repeat(30)}80`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
  `ec${"ff".repeat(30)}7f`,
  `ec${"ff".repeat(30)}ff`,
  `ed${"ff".repeat(30)}7f`,
  `ed${"ff".repeat(30)}ff`,
  `ee${"ff".repeat(30)}7f`,
  `ee${"ff".repeat(30)}ff`,
];

const vectors = {
  key: { pem, line: publicKeyLine(signer.raw, "ada"), keyId: signer.keyId },
  pae: [
    ["http://example.com/HelloWorld", "hello world"],
    ["", ""],
    [FUNCTION_PAYLOAD_TYPE, '{"ü":1}'],
  ].map(([type, payload]) => ({
    type,
    payload,
    hex: preAuthEncoding(type, Buffer.from(payload)).toString("hex"),
  })),
  functions: functions.map((statement) => ({ statement, envelope: signFunction(statement, signer) })),
  functionType: FUNCTION_PAYLOAD_TYPE,
  invocationType: INVOCATION_PAYLOAD_TYPE,
  invocation: { statement: invocation, options, envelope: signInvocation(invocation, signer) },
  optionsOfNothing: optionsDigest(undefined),
  notEnvelopes,
  notKeys: [
    ...smallOrder.map((hex) => `ed25519:${Buffer.from(hex, "hex").toString("base64")} small`),
    `rsa:${signer.raw.toString("base64")}`,
    `ed25519:${signer.raw.toString("base64url")}`,
    `ed25519:${signer.raw.subarray(1).toString("base64")}`,
  ],
};
const path = new URL("../vectors/trust.json", import.meta.url);
writeFileSync(path, `${JSON.stringify(vectors, null, 1)}\n`);
