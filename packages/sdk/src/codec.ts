/**
 * Arguments to bytes, results to values. Arguments are always `[args, kwargs]`. What a codec cannot carry is
 * refused before anything is sent, naming its path: JSON.stringify would turn NaN into null and a Map into {}.
 *
 *   C1  Small arguments share an arena, so that a task costs no Buffer object of its own.
 */
import { CODEC_REFERENCE, CODECS, decodeBounded, encodeValue, FarloomError, limits } from "@farloom/protocol";

export type ArgumentCodec = "json" | "msgpack";

/** Where encoded arguments lie. */
export interface Encoded {
  source: Buffer;
  start: number;
  end: number;
  codec: number;
}

/** Large enough that making one is rare, small enough that one waiting task retains little. */
const ARENA_BYTES = 64 * 1024;
/** Longer text gets a buffer of its own. */
const ARENA_TEXT = 4 * 1024;

/** Writes arguments into bytes. */
export class ArgumentEncoder {
  #arena = Buffer.allocUnsafeSlow(ARENA_BYTES);
  #at = 0;

  encode(args: readonly unknown[], kwargs: Readonly<Record<string, unknown>>, codec: ArgumentCodec): Encoded {
    if (codec === "msgpack") return whole(encodeMessagePack([args, kwargs]), CODECS.msgpack);
    const bad = problem(args, 0) ?? problem(kwargs, 0);
    if (bad !== undefined) throw unencodable(bad, args, kwargs);
    const text = JSON.stringify([args, kwargs]);
    // A JavaScript character is at most three bytes of UTF-8.
    if (text.length > ARENA_TEXT) return whole(Buffer.from(text), CODECS.json);
    if (this.#at + text.length * 3 > ARENA_BYTES) {
      this.#arena = Buffer.allocUnsafeSlow(ARENA_BYTES);
      this.#at = 0;
    }
    const start = this.#at;
    const end = start + this.#arena.write(text, start);
    this.#at = end;
    return { source: this.#arena, start, end, codec: CODECS.json };
  }
}

function whole(source: Buffer, codec: number): Encoded {
  return { source, start: 0, end: source.length, codec };
}

function encodeMessagePack(value: unknown): Buffer {
  const bad = messagePackProblem(value, 0);
  if (bad !== undefined) {
    throw new FarloomError("VALUE_UNENCODABLE", { path: "an argument", codec: "msgpack", detail: bad });
  }
  return encodeValue(value);
}

function messagePackProblem(value: unknown, depth: number): string | undefined {
  if (typeof value === "function" || typeof value === "symbol") return `a ${typeof value} is no data`;
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return undefined;
  if (depth > limits.MAX_JSON_DEPTH) return "it nests too deep, or refers to itself";
  if (!Array.isArray(value) && !isPlain(value))
    return `a ${value.constructor?.name ?? "object"} has no MessagePack form`;
  for (const item of Object.values(value)) {
    const bad = messagePackProblem(item, depth + 1);
    if (bad !== undefined) return bad;
  }
  return undefined;
}

/** Why `value` is not JSON, or undefined. Paths are built only once something is wrong. */
function problem(value: unknown, depth: number): string | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : `${value} is not JSON; send null or a string`;
    case "undefined":
      return "undefined is not JSON; send null";
    case "bigint":
      return "a BigInt is not JSON; send a string or a number";
    case "function":
    case "symbol":
      return `a ${typeof value} is no data`;
    case "object":
      return value === null ? undefined : objectProblem(value, depth);
  }
}

function objectProblem(value: object, depth: number): string | undefined {
  if (depth > limits.MAX_JSON_DEPTH) {
    return `it nests more than ${limits.MAX_JSON_DEPTH} deep, or refers to itself`;
  }
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const bad = problem(value[i], depth + 1);
      if (bad !== undefined) return bad;
    }
    return undefined;
  }
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    return 'bytes are not JSON; choose {codec: "msgpack"}';
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") return undefined;
  if (!isPlain(value))
    return `a ${value.constructor?.name ?? "object"} is not JSON; send a plain object or an array`;
  for (const key in value) {
    const item = (value as Record<string, unknown>)[key];
    if (item === undefined) continue;
    const bad = problem(item, depth + 1);
    if (bad !== undefined) return bad;
  }
  return undefined;
}

function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function unencodable(detail: string, args: readonly unknown[], kwargs: object): FarloomError {
  const path = pathOf(args, "args", 0) ?? pathOf(kwargs, "kwargs", 0) ?? "an argument";
  return new FarloomError("VALUE_UNENCODABLE", { path, codec: "JSON", detail });
}

/** The path of the first value that is not JSON. */
function pathOf(value: unknown, path: string, depth: number): string | undefined {
  if (problem(value, depth) === undefined) return undefined;
  if (depth > limits.MAX_JSON_DEPTH || typeof value !== "object" || value === null) return path;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const inner = pathOf(value[i], `${path}[${i}]`, depth + 1);
      if (inner !== undefined) return inner;
    }
  } else {
    for (const [key, item] of Object.entries(value)) {
      if (item === undefined) continue;
      const step = /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
      const inner = pathOf(item, path + step, depth + 1);
      if (inner !== undefined) return inner;
    }
  }
  return path;
}

/** A result's value. Throws RESULT_UNREADABLE where this language cannot read it. */
export function decodeResult(
  bytes: Buffer,
  start: number,
  end: number,
  codec: number,
  idOf: () => string,
): unknown {
  // A function without a result, or one that never gave one, has no bytes.
  if (start === end) return undefined;
  try {
    switch (codec & ~CODEC_REFERENCE) {
      case CODECS.json:
        return JSON.parse(bytes.toString("utf8", start, end));
      case CODECS.msgpack: {
        const decoded = decodeBounded(bytes.subarray(start, end), MESSAGE_PACK_LIMITS);
        if (decoded.ok) return decoded.value;
        throw new Error(decoded.reason);
      }
      case CODECS.pickle:
        throw new Error("it was pickled by Python; return JSON values, or call the function from Python");
      default:
        throw new Error(`codec ${codec} is not known here`);
    }
  } catch (error) {
    throw new FarloomError(
      "RESULT_UNREADABLE",
      { id: idOf(), detail: (error as Error).message },
      { cause: error },
    );
  }
}

/** A result is the caller's own: bounded by what a payload may be, and by nesting alone. */
const MESSAGE_PACK_LIMITS = {
  maxBytes: limits.MAX_PAYLOAD_BYTES,
  maxDepth: limits.MAX_JSON_DEPTH,
  maxElements: 64 * 1024 * 1024,
};
