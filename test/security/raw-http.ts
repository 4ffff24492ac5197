// Requests that no well-behaved client makes: the bytes as they are given, over a socket of their own.
import { connect } from "node:net";

/** The longest that an answer may take on a loaded machine. */
const ANSWER_MS = 10_000;

export interface RawReply {
  readonly status: number;
  /** In lower case; the last one where a header comes twice. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Sends the head's lines and a blank one; resolves to the first answer. Header lines may be anything. */
export function raw(url: string, lines: readonly string[], body = ""): Promise<RawReply> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname.replace(/^\[|\]$/g, ""));
    let text = "";
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no answer to ${JSON.stringify(lines[0]).slice(0, 200)}: ${text.slice(0, 200)}`));
    }, ANSWER_MS);
    const done = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(parse(text));
    };
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      if (isWhole(text)) done();
    });
    socket.on("close", done);
    socket.on("error", () => undefined);
    socket.write(`${lines.join("\r\n")}\r\n\r\n${body}`, "latin1");
  });
}

/** A request to open a WebSocket with our subprotocol. */
export function upgradeLines(host: string, target: string, headers: readonly string[] = []): string[] {
  return [
    `GET ${target} HTTP/1.1`,
    `Host: ${host}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: farloom.v1",
    ...headers,
  ];
}

function isWhole(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  const { status, headers } = parse(text);
  if (status === 101 || status === 204 || status === 304) return true;
  if (headers["transfer-encoding"] !== undefined) return text.endsWith("\r\n0\r\n\r\n");
  const length = headers["content-length"];
  return length !== undefined && text.length - end - 4 >= Number(length);
}

function parse(text: string): RawReply {
  const end = text.indexOf("\r\n\r\n");
  const [first = "", ...rest] = (end < 0 ? text : text.slice(0, end)).split("\r\n");
  const headers = rest.map((line) => [
    line.slice(0, line.indexOf(":")).toLowerCase(),
    line.slice(line.indexOf(":") + 1).trim(),
  ]);
  return {
    status: Number(/^HTTP\/1\.1 (\d{3})/.exec(first)?.[1] ?? 0),
    headers: Object.fromEntries(headers),
    body: end < 0 ? "" : text.slice(end + 4),
  };
}
