/**
 * The agent's side of one session after another with the service: what it has received and marked, what waits
 * to be sent, and the credit (PROTOCOL.md section 3). What may be sent when is the engine's to say: it calls
 * `release` only when the journal covers everything staged.
 */
import { errorMessage, type Frame, type MarkFrame, misplaced, type TasksFrame } from "@farloom/protocol";
import { crashPoint } from "@farloom/protocol/testing";
import type { ResultSender } from "../results/result-sender.js";
import type { HeldTask } from "../scheduler/held-task.js";
import type { LinkSession } from "./connection.js";
import type { CreditWindow } from "./credit-window.js";

export interface Release {
  /** A mark that nothing goes along with is sent as well. */
  readonly lazyToo: boolean;
  /** Whether more tasks are wanted. */
  readonly mayGrant: boolean;
  readonly heldTasks: number;
  readonly heldBytes: number;
}

export class ServiceStream {
  readonly #window: CreditWindow;
  readonly #sender: ResultSender;
  #session: LinkSession | undefined;
  /** Positions in this session, and what of them has been marked. */
  #received = 0;
  #marked = 0;
  #mark: MarkFrame | undefined;
  #staged: Frame[] = [];
  /** Whether the unacknowledged results have been sent again, so that credit may follow (P15). */
  #creditOpen = false;

  constructor(window: CreditWindow, sender: ResultSender) {
    this.#window = window;
    this.#sender = sender;
  }

  get isOpen(): boolean {
    return this.#session !== undefined;
  }

  open(session: LinkSession): void {
    this.close();
    this.#session = session;
    this.#received = this.#marked = 0;
    this.#creditOpen = false;
    this.#window.restart();
    this.#sender.attach(session);
  }

  close(): void {
    this.#session = undefined;
    this.#mark = undefined;
    this.#staged = [];
    this.#sender.detach();
  }

  /** Sent with the next release; dropped where there is no session, as the next one begins with a hello. */
  stage(frame: Frame): void {
    if (this.#session !== undefined) this.#staged.push(frame);
  }

  /** Sends what nothing else waits for and nobody keeps. False: there is no session, or it is full. */
  sendNow(frame: Frame): boolean {
    if (this.#session === undefined || !this.#session.writable) return false;
    this.#session.send(frame);
    return true;
  }

  /** Counts a batch. False: there was no credit for it, and the session ends. */
  received(frame: TasksFrame): boolean {
    const wrong = misplaced(frame.first, this.#received);
    if (wrong !== undefined) {
      this.#session?.close("FRAME_INVALID", errorMessage("FRAME_INVALID", { detail: wrong }));
      return false;
    }
    this.#received += frame.n;
    if (this.#window.received(frame.n, frame.args.length, largestOf(frame))) return true;
    const detail = `${this.#received} tasks in this session`;
    this.#session?.close("CREDIT_EXCEEDED", errorMessage("CREDIT_EXCEEDED", { detail }));
    return false;
  }

  /** Applied at the turn's end: several become one, and an `unknown` right behind is still in time (P14). */
  marked(frame: MarkFrame): void {
    this.#mark = frame;
  }

  /** What the service has for good since the last call. */
  takeReleased(): readonly HeldTask[] {
    const mark = this.#mark;
    if (mark === undefined) return [];
    this.#mark = undefined;
    const released = this.#sender.mark(mark);
    if (Array.isArray(released)) return released;
    this.#session?.close("FRAME_INVALID", errorMessage("FRAME_INVALID", { detail: released.bad }));
    return [];
  }

  /** Sends what is due. Returns what is still wanted: a `lazy` flush for a mark, or one in the `next` turn. */
  release({ lazyToo, mayGrant, heldTasks, heldBytes }: Release): "lazy" | "next" | undefined {
    const session = this.#session;
    if (session === undefined) return undefined;
    const grant = mayGrant && this.#creditOpen ? this.#window.next(heldTasks, heldBytes) : undefined;
    const isMarkDue = this.#marked < this.#received;
    const isQuiet = this.#staged.length === 0 && this.#sender.isDry && grant === undefined;
    if (isQuiet && this.#creditOpen && !(lazyToo && isMarkDue)) return isMarkDue ? "lazy" : undefined;
    session.together(() => {
      if (isMarkDue) {
        this.#marked = this.#received;
        crashPoint("agent.accepted.before-mark");
        session.send({ t: "mark", accepted: this.#marked, durable: this.#marked });
        crashPoint("agent.accepted.after-mark");
      }
      for (const frame of this.#staged.splice(0)) session.send(frame);
      this.#sender.pump();
      if (grant) session.send({ t: "credit", ...grant });
    });
    if (this.#creditOpen || !this.#sender.isDry) return undefined;
    this.#creditOpen = true;
    return "next";
  }
}

/** The largest arguments of a batch: the one task that may overdraw the credit for bytes. */
function largestOf(frame: TasksFrame): number {
  let most = 0;
  for (let i = 0, before = 0; i < frame.n; i++) {
    const end = frame.ends.readUInt32LE(4 * i);
    most = Math.max(most, end - before);
    before = end;
  }
  return most;
}
