// An endpoint's agent for tests of the service: it enrols, signs challenges and speaks the protocol over a real socket,
// but runs nothing: each task is answered by a function of the test.
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import {
  type AgentInfo,
  buildResults,
  byteOf,
  CODECS,
  decodeFrame,
  encodeFrame,
  endOf,
  FRAMES_DOWN,
  type IdKey,
  keyAt,
  limits,
  type OutcomeDetail,
  REASONS,
  type Reason,
  type ResultItem,
  startOf,
  type TasksFrame,
  TERMINAL_STATES,
  type TerminalState,
  u32Of,
} from "@farloom/protocol";
import { WebSocket } from "ws";
import { RestClient } from "./rest-client.js";

/** Often enough not to be taken for dead. */
const PING_MS = 3_000;

/** A task as the fake gets it. */
export interface GivenTask {
  readonly key: IdKey;
  readonly codec: number;
  readonly bytes: Buffer;
}

/** What it answers; JSON of `value` where there are no bytes. Undefined: never. */
export interface Answer {
  readonly state?: TerminalState;
  readonly reason?: Reason;
  readonly value?: unknown;
  readonly bytes?: Buffer;
  readonly codec?: number;
  readonly detail?: OutcomeDetail;
}

export interface AgentKeys {
  readonly privateKey: KeyObject;
  /** Raw, in base64. */
  readonly publicKey: string;
}

export function makeAgentKeys(): AgentKeys {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
  return { privateKey, publicKey: raw.toString("base64") };
}

/** A session token for an enrolled endpoint, as an agent gets it. */
export async function agentToken(url: string, endpointId: string, privateKey: KeyObject): Promise<string> {
  const nobody = new RestClient(url, undefined);
  const { body: challenge } = await nobody.post(`/v1/endpoints/${endpointId}/challenge`);
  const text = `farloom-agent-v1\n${new URL(url).host}\n${endpointId}\n${challenge.nonce}`;
  const signature = sign(null, Buffer.from(text), privateKey).toString("base64url");
  const { body } = await nobody.post(`/v1/endpoints/${endpointId}/session`, {
    nonce: challenge.nonce,
    signature,
  });
  return body.token as string;
}

export class FakeAgent {
  readonly endpointId: string;
  readonly token: string;
  readonly #socket: WebSocket;
  readonly #answer: (task: GivenTask) => Answer | undefined;
  #received = 0;

  private constructor(
    endpointId: string,
    token: string,
    socket: WebSocket,
    answer: (task: GivenTask) => Answer | undefined,
  ) {
    this.endpointId = endpointId;
    this.token = token;
    this.#socket = socket;
    this.#answer = answer;
  }

  /** Makes an endpoint of that name, enrols and connects; resolves when the service has welcomed it. */
  static async start(
    api: RestClient,
    name: string,
    answer: (task: GivenTask) => Answer | undefined,
    info: Partial<AgentInfo> = {},
  ): Promise<FakeAgent> {
    const { body: made } = await api.post("/v1/endpoints", { name });
    const keys = makeAgentKeys();
    await new RestClient(api.url, undefined).post("/v1/endpoints/enroll", {
      code: made.enrolmentCode,
      publicKey: keys.publicKey,
    });
    const token = await agentToken(api.url, made.id, keys.privateKey);
    const socket = new WebSocket(
      `${api.url.replace("http", "ws")}${limits.AGENT_LINK_PATH}`,
      limits.SUBPROTOCOL,
      {
        headers: { authorization: `Bearer ${token}` },
        perMessageDeflate: false,
      },
    );
    const agent = new FakeAgent(made.id, token, socket, answer);
    await agent.#open(info);
    return agent;
  }

  close(): Promise<void> {
    // The service may have closed it.
    if (this.#socket.readyState === WebSocket.CLOSED) return Promise.resolve();
    return new Promise((resolve) => {
      this.#socket.once("close", () => resolve());
      this.#socket.close();
    });
  }

  #open(info: Partial<AgentInfo>): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = this.#socket;
      socket.once("error", reject);
      const pings = setInterval(() => {
        if (socket.readyState === WebSocket.OPEN) socket.send(encodeFrame({ t: "ping", n: 1 }));
      }, PING_MS);
      pings.unref();
      socket.once("close", () => clearInterval(pings));
      socket.once("open", () =>
        socket.send(
          encodeFrame({
            t: "hello",
            role: "agent",
            versions: [1],
            caps: ["ref"],
            software: "fake",
            held: Buffer.alloc(0),
            unacked: 0,
            agent: {
              host: "fake",
              os: "test",
              bootId: "b",
              nodeVersion: "v0",
              runtimes: {},
              workers: 1,
              cores: 1,
              memoryMb: 1,
              ...info,
            },
          }),
        ),
      );
      socket.on("message", (data: Buffer) => {
        const decoded = decodeFrame(data, FRAMES_DOWN.agent);
        if (!decoded.ok) throw new Error(decoded.reason);
        const { frame } = decoded;
        if (frame.t === "welcome") {
          socket.send(encodeFrame({ t: "credit", tasks: 1_000_000, bytes: 1e12 }));
          // One that says nothing is taken for dead: a test may last longer than that.
          let n = 0;
          const beat = setInterval(
            () => socket.send(encodeFrame({ t: "ping", n: ++n })),
            limits.HEARTBEAT_MS,
          );
          socket.once("close", () => clearInterval(beat));
          resolve();
        } else if (frame.t === "refuse") reject(new Error(`${frame.code}: ${frame.message}`));
        else if (frame.t === "tasks") this.#take(frame);
      });
    });
  }

  #take(frame: TasksFrame): void {
    this.#received += frame.n;
    this.#socket.send(encodeFrame({ t: "mark", accepted: this.#received, durable: this.#received }));
    const results: ResultItem[] = [];
    for (let i = 0; i < frame.n; i++) {
      const bytes = frame.args.subarray(startOf(frame.ends, i), endOf(frame.ends, i));
      const key = keyAt(frame.ids, 16 * i);
      const answer = this.#answer({ key, codec: byteOf(frame.codecs, i), bytes });
      if (answer) results.push(toResult(key, u32Of(frame.attempts, i, 1), answer));
    }
    if (results.length > 0) this.#socket.send(encodeFrame(buildResults(results, 0, results.length)));
  }
}

function toResult(key: IdKey, attempt: number, answer: Answer): ResultItem {
  const state = answer.state ?? "SUCCEEDED";
  const source =
    answer.bytes ??
    (state === "SUCCEEDED" ? Buffer.from(JSON.stringify(answer.value ?? null)) : Buffer.alloc(0));
  return {
    key,
    attempt,
    state: TERMINAL_STATES[state],
    reason: REASONS[answer.reason ?? "none"],
    codec: answer.codec ?? CODECS.json,
    source,
    start: 0,
    end: source.length,
    queueUs: 1_500,
    runUs: 2_500,
    cpuUs: 2_000,
    peakKb: 1_024,
    detail: answer.detail,
  };
}
