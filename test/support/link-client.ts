/**
 * A client that speaks the link by hand: it sends exactly the frames that a test wants, keeps every result and
 * every refusal, and does none of what the SDK does for its users (custody, resending, watching by itself).
 */
import {
  buildTasks,
  byteOf,
  endOf,
  FRAMES_UP,
  type Frame,
  type IdKey,
  keyAt,
  limits,
  newBatchId,
  type Reason,
  type RefusedFrame,
  type ResultsFrame,
  reasonName,
  startOf,
  stateName,
  TaskIdAllocator,
  type TaskItem,
  type TaskOptions,
  type TasksFrame,
  type TerminalState,
  u32Of,
  uuidToKey,
} from "@farloom/protocol";
import { FramePeer } from "./frame-peer.js";

export interface Outcome {
  readonly state: TerminalState;
  readonly reason: Reason;
  readonly attempt: number;
  /** Undefined where the frame has no such column. */
  readonly seal: Buffer | undefined;
  readonly bytes: Buffer;
}

export interface Submission {
  readonly endpointId: string;
  readonly fn: Buffer;
  readonly args: readonly Buffer[];
  /** Of all; default: json. */
  readonly codec?: number;
  readonly options?: TaskOptions;
  /** The seal over each; default: none, as of a client of before seals. */
  readonly seal?: (key: IdKey, bytes: Buffer) => Buffer;
  readonly again?: boolean;
  /** Default: new ones. */
  readonly keys?: readonly IdKey[];
  /** Default: the client's own. */
  readonly group?: Buffer;
}

export class LinkClient {
  readonly outcomes = new Map<IdKey, Outcome>();
  /** Results that came, repetitions included. */
  results = 0;
  readonly refusals: RefusedFrame[] = [];
  mark = { accepted: 0, durable: 0 };
  credit = { tasks: 0, bytes: 0 };
  /** Tasks sent in this session. */
  sent = 0;
  readonly group: Buffer;
  peer!: FramePeer;
  readonly #ids = new TaskIdAllocator();

  private constructor(group: Buffer) {
    this.group = group;
  }

  /** Resolves once it is welcome and has credit; watches its group. */
  static async connect(
    url: string,
    token: string,
    group = newBatchId(),
    caps?: string[],
  ): Promise<LinkClient> {
    const client = new LinkClient(group);
    const kinds = FRAMES_UP.client;
    client.peer = await FramePeer.open({ url, path: limits.CLIENT_LINK_PATH, token, kinds }, (frame) =>
      client.#onFrame(frame),
    );
    client.peer.send(clientHello(caps));
    await client.peer.until(() => client.credit.tasks > 0, "the client's first credit");
    client.peer.send({ t: "watch", group });
    return client;
  }

  /** Sends one frame; returns the ids. */
  submit(submission: Submission): IdKey[] {
    const keys = submission.keys ?? submission.args.map(() => this.#ids.next());
    this.sent += keys.length;
    this.peer.send(tasksFrame(submission, keys, submission.group ?? this.group));
    return [...keys];
  }

  watch(keys: readonly IdKey[]): void {
    this.peer.send({ t: "watch", group: this.group, ids: Buffer.from(keys.join(""), "latin1") });
  }

  /** With `unbegun`, only what has not begun. */
  cancel(keys: readonly IdKey[], why?: "unbegun"): void {
    this.peer.send({ t: "cancel", ids: Buffer.from(keys.join(""), "latin1"), ...(why && { why }) });
  }

  /** All tasks sent so far are committed or refused. */
  untilDurable(timeoutMs?: number): Promise<void> {
    const { sent } = this;
    return this.peer.until(() => this.mark.durable >= sent, `the durable mark of ${sent} tasks`, timeoutMs);
  }

  async untilOutcomes(keys: readonly IdKey[], timeoutMs?: number): Promise<Outcome[]> {
    let at = 0;
    await this.peer.until(
      () => {
        while (at < keys.length && this.outcomes.has(keys[at]!)) at++;
        return at === keys.length;
      },
      `${keys.length} outcomes`,
      timeoutMs,
    );
    return keys.map((key) => this.outcomes.get(key)!);
  }

  close(): Promise<void> {
    return this.peer.close();
  }

  #onFrame(frame: Frame): void {
    if (frame.t === "results") this.#take(frame);
    else if (frame.t === "refused") this.refusals.push(frame);
    else if (frame.t === "credit") this.credit = { tasks: frame.tasks, bytes: frame.bytes };
    else if (frame.t === "mark") this.mark = { accepted: frame.accepted, durable: frame.durable };
  }

  #take(frame: ResultsFrame): void {
    for (let i = 0; i < frame.n; i++) {
      this.results++;
      this.outcomes.set(keyAt(frame.ids, 16 * i), {
        state: stateName(byteOf(frame.states, i))!,
        reason: reasonName(byteOf(frame.reasons, i)),
        attempt: u32Of(frame.attempts, i, 1),
        seal: frame.seals?.subarray(32 * i, 32 * i + 32),
        bytes: frame.data.subarray(startOf(frame.ends, i), endOf(frame.ends, i)),
      });
    }
    this.peer.send({ t: "mark", accepted: this.results, durable: this.results });
  }
}

export function clientHello(caps: string[] = ["ref", "cancel-running"]): Frame {
  return { t: "hello", role: "client", versions: [1], caps, software: "test" };
}

export function tasksFrame(submission: Submission, keys: readonly IdKey[], group: Buffer): TasksFrame {
  const items: TaskItem[] = submission.args.map((source, i) => ({
    key: keys[i]!,
    source,
    start: 0,
    end: source.length,
    codec: submission.codec ?? 1,
    attempt: 1,
    seals: submission.seal?.(keys[i]!, source),
    options: submission.options,
  }));
  const frame = buildTasks(items, 0, items.length, () => submission.fn);
  frame.endpoint = Buffer.from(uuidToKey(submission.endpointId)!, "latin1");
  frame.group = group;
  if (submission.again) frame.again = 1;
  return frame;
}
