/**
 * A light agent that a test scripts: it enrols and signs as a real one, keeps the order in which tasks came, and
 * answers each with what the test says: at once, later, or never. It runs nothing and keeps no journal.
 */
import {
  batchLength,
  buildResults,
  endOf,
  FRAMES_DOWN,
  type Frame,
  fenceOf,
  type HelloFrame,
  type IdKey,
  keyAt,
  keysToColumn,
  limits,
  type OutcomeDetail,
  REASONS,
  type Reason,
  type ResultItem,
  startOf,
  type TaskOptions,
  type TasksFrame,
  TERMINAL_STATES,
  type TerminalState,
  u32Of,
} from "@farloom/protocol";
import { type AgentKeys, agentToken, makeAgentKeys } from "./fake-agent.js";
import { FramePeer } from "./frame-peer.js";
import { RestClient } from "./rest-client.js";

export interface ReceivedTask {
  readonly key: IdKey;
  readonly attempt: number;
  readonly fence?: number;
  readonly options?: TaskOptions | undefined;
  /** Undefined where the frame has no such column. */
  readonly seal?: Buffer | undefined;
  readonly bytes: Buffer;
}

export interface Reply {
  readonly state?: TerminalState;
  readonly reason?: Reason;
  readonly bytes?: Buffer;
  /** Default: the task's. */
  readonly attempt?: number;
  /** Default: the task's; 0: none, as of an agent of before fences. */
  readonly fence?: number;
  readonly seal?: Buffer;
  readonly detail?: OutcomeDetail;
}

/** An enrolled endpoint that agents of a test connect as. */
export interface EchoEndpoint {
  readonly id: string;
  readonly name: string;
  readonly keys: AgentKeys;
}

export interface EchoAgentOptions {
  /** What becomes of a task: a reply, or undefined to hold it. Default: its own arguments as the result. */
  readonly onTask?: (task: ReceivedTask) => Reply | undefined;
  readonly held?: readonly IdKey[];
  /** What else its hello says. */
  readonly hello?: Partial<HelloFrame>;
  /** Tasks that it is ready to hold unanswered. Default 16,384. */
  readonly window?: number;
}

/** Makes an endpoint and enrols. */
export async function makeEchoEndpoint(api: RestClient, name: string): Promise<EchoEndpoint> {
  const made = await api.post("/v1/endpoints", { name });
  if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  const keys = makeAgentKeys();
  await new RestClient(api.url, undefined).post("/v1/endpoints/enroll", {
    code: made.body.enrolmentCode,
    publicKey: keys.publicKey,
  });
  return { id: made.body.id, name, keys };
}

export class EchoAgent {
  readonly received: ReceivedTask[] = [];
  /** Ids that the service asked to stop, and those whose results it does not know. */
  readonly cancelled: IdKey[] = [];
  readonly unknown: IdKey[] = [];
  mark = { accepted: 0, durable: 0 };
  /** Results sent in this session. */
  sent = 0;
  peer!: FramePeer;
  readonly #options: EchoAgentOptions;
  readonly #window: number;
  #answered = 0;

  private constructor(options: EchoAgentOptions) {
    this.#options = options;
    this.#window = options.window ?? 16_384;
  }

  /** Resolves once it is welcome and has given credit. */
  static async connect(
    url: string,
    endpoint: EchoEndpoint,
    options: EchoAgentOptions = {},
  ): Promise<EchoAgent> {
    const agent = new EchoAgent(options);
    const token = await agentToken(url, endpoint.id, endpoint.keys.privateKey);
    const kinds = FRAMES_DOWN.agent;
    agent.peer = await FramePeer.open({ url, path: limits.AGENT_LINK_PATH, token, kinds }, (frame) =>
      agent.#onFrame(frame),
    );
    agent.peer.send({ ...agentHello(options.held), ...options.hello } as Frame);
    await agent.peer.until(() => agent.peer.of("welcome").length > 0, "the agent's welcome");
    if (agent.#window > 0) agent.grant(agent.#window);
    return agent;
  }

  grant(tasks: number): void {
    this.peer.send({ t: "credit", tasks, bytes: 2 ** 40 });
  }

  /** Answers these tasks, each with the same reply or with its own. */
  reply(tasks: readonly ReceivedTask[], reply: Reply | ((task: ReceivedTask) => Reply)): void {
    const items = tasks.map((task) => toResult(task, typeof reply === "function" ? reply(task) : reply));
    for (let at = 0; at < items.length; ) {
      const n = batchLength(items.length, at, (i) => items[i]!.end - items[i]!.start);
      this.sent += n;
      this.peer.send(buildResults(items, at, n));
      at += n;
    }
    this.#answered += items.length;
    if (this.#window > 0) this.grant(this.#answered + this.#window);
  }

  async untilReceived(count: number): Promise<ReceivedTask[]> {
    await this.peer.until(() => this.received.length >= count, `${count} tasks at the agent`);
    return this.received;
  }

  /** The service has said that all results sent so far are its own. */
  untilDurable(): Promise<void> {
    return this.peer.until(() => this.mark.durable >= this.sent, `the durable mark of ${this.sent} results`);
  }

  close(): Promise<void> {
    return this.peer.close();
  }

  #onFrame(frame: Frame): void {
    if (frame.t === "tasks") this.#take(frame);
    else if (frame.t === "mark") this.mark = { accepted: frame.accepted, durable: frame.durable };
    else if (frame.t === "cancel") this.cancelled.push(...keysOf(frame.ids));
    else if (frame.t === "unknown") this.unknown.push(...keysOf(frame.ids));
  }

  #take(frame: TasksFrame): void {
    const replies = new Map<ReceivedTask, Reply>();
    for (let i = 0; i < frame.n; i++) {
      const task: ReceivedTask = {
        key: keyAt(frame.ids, 16 * i),
        attempt: u32Of(frame.attempts, i, 1),
        fence: fenceOf(frame.fences, i),
        options: frame.opts?.[i],
        seal: frame.seals?.subarray(32 * i, 32 * i + 32),
        bytes: frame.args.subarray(startOf(frame.ends, i), endOf(frame.ends, i)),
      };
      this.received.push(task);
      const reply = this.#options.onTask ? this.#options.onTask(task) : {};
      if (reply) replies.set(task, reply);
    }
    this.peer.send({ t: "mark", accepted: this.received.length, durable: this.received.length });
    if (replies.size > 0) this.reply([...replies.keys()], (task) => replies.get(task)!);
  }
}

export function agentHello(held: readonly IdKey[] = []): Frame {
  return {
    t: "hello",
    role: "agent",
    versions: [1],
    caps: ["ref", "cancel-running"],
    software: "echo",
    held: keysToColumn(held),
    unacked: 0,
    agent: {
      host: "echo",
      os: "test",
      bootId: "b",
      nodeVersion: "v0",
      runtimes: {},
      workers: 1,
      cores: 1,
      memoryMb: 1,
    },
  };
}

function toResult(task: ReceivedTask, reply: Reply): ResultItem {
  const state = reply.state ?? "SUCCEEDED";
  const source = reply.bytes ?? (state === "SUCCEEDED" ? task.bytes : Buffer.alloc(0));
  return {
    key: task.key,
    attempt: reply.attempt ?? task.attempt,
    fence: reply.fence ?? task.fence,
    seals: reply.seal,
    state: TERMINAL_STATES[state],
    reason: REASONS[reply.reason ?? (state === "FAILED" ? "user_error" : "none")],
    codec: 1,
    source,
    start: 0,
    end: source.length,
    queueUs: 5,
    runUs: 5,
    cpuUs: 5,
    peakKb: 1,
    detail: reply.detail,
  };
}

function keysOf(ids: Buffer): IdKey[] {
  return Array.from({ length: ids.length / 16 }, (_, i) => keyAt(ids, 16 * i));
}
