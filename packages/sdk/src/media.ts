/** Results that come over REST, by their media type. */
import { CODECS } from "@farloom/protocol";
import { decodeResult } from "./codec.js";

const CODEC_OF_TYPE: readonly (readonly [RegExp, number])[] = [
  [/json/, CODECS.json],
  [/msgpack/, CODECS.msgpack],
  [/pickle/, CODECS.pickle],
];

/** The value in the body; bytes of no known type stay bytes. */
export function decode(body: Buffer, contentType: string, id: string): unknown {
  const codec = CODEC_OF_TYPE.find(([pattern]) => pattern.test(contentType))?.[1];
  return codec === undefined ? body : decodeResult(body, 0, body.length, codec, () => id);
}
