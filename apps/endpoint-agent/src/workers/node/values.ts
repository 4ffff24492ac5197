/** Arguments in, results out: JSON and MessagePack. What cannot travel is refused with what to do instead. */
import { CODEC_REFERENCE, CODECS, decodeBounded, encodeValue } from "@farloom/protocol";
import { Failure } from "./failure.js";

const BOUNDS = { maxBytes: 1024 * 1024 * 1024, maxDepth: 256, maxElements: 64 * 1024 * 1024 };

/** The positional arguments of a call; named ones come last, as one object. */
export function decodeArguments(codec: number, raw: Buffer): unknown[] {
  const value = decode(codec & ~CODEC_REFERENCE, raw);
  if (!Array.isArray(value) || value.length !== 2 || !Array.isArray(value[0]) || !isMap(value[1])) {
    throw new Failure("arguments_invalid", "ArgumentsInvalid", "the arguments are not [list, map]");
  }
  const [args, kwargs] = value as [unknown[], Record<string, unknown>];
  return Object.keys(kwargs).length > 0 ? [...args, kwargs] : args;
}

function decode(codec: number, raw: Buffer): unknown {
  if (codec === CODECS.json) {
    try {
      return JSON.parse(raw.toString("utf8"));
    } catch (error) {
      throw new Failure(
        "arguments_invalid",
        "ArgumentsInvalid",
        `the arguments are not JSON: ${(error as Error).message}`,
      );
    }
  }
  if (codec === CODECS.msgpack) {
    const decoded = decodeBounded(raw, BOUNDS);
    if (decoded.ok) return decoded.value;
    throw new Failure(
      "arguments_invalid",
      "ArgumentsInvalid",
      `the arguments are not MessagePack: ${decoded.reason}`,
    );
  }
  throw new Failure(
    "arguments_invalid",
    "ArgumentsInvalid",
    "pickled arguments are for Python functions; submit with the json or msgpack codec",
  );
}

/** The bytes of a result, in the codec of the arguments. */
export function encodeResult(codec: number, value: unknown): Buffer {
  const result = value === undefined ? null : value;
  try {
    if (codec === CODECS.msgpack) {
      refuse("", result);
      return encodeValue(result);
    }
    return Buffer.from(JSON.stringify(result, checkJson));
  } catch (error) {
    if (error instanceof Failure) throw error;
    if (error instanceof RangeError) throw invalid("it is nested too deep");
    throw invalid((error as Error).message);
  }
}

// `this` is the holder: toJSON has already run on `value`, and would hide what it was.
function checkJson(this: unknown, key: string, value: unknown): unknown {
  const original = isMap(this) || Array.isArray(this) ? (this as Record<string, unknown>)[key] : value;
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw invalid(
      "JSON has no NaN or Infinity: return null or a string for them, or submit with the msgpack codec",
    );
  }
  if (typeof value === "bigint") {
    throw invalid("JSON has no BigInt: return Number(x) or String(x), or submit with the msgpack codec");
  }
  if (ArrayBuffer.isView(original) || original instanceof ArrayBuffer) {
    throw invalid(
      "JSON has no bytes: return text (base64) or Array.from(x), or submit with the msgpack codec",
    );
  }
  refuse(key, value);
  return value;
}

function refuse(key: string, value: unknown): void {
  if (typeof value === "function" || typeof value === "symbol") {
    throw invalid(`${key === "" ? "it" : `its field ${key}`} is a ${typeof value}`);
  }
}

function invalid(why: string): Failure {
  return new Failure("result_invalid", "ResultInvalid", `the result cannot be sent: ${why}`);
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
