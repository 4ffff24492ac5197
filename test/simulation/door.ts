/** The service's two doors in the simulated world: an agent's session (gateway/), and a client's (api/link/). */
import {
  buildTasks,
  Credit,
  columnToKeys,
  type Frame,
  type IdKey,
  Inbox,
  keysToColumn,
  type Mark,
  Outbox,
} from "@farloom/protocol";
import type { EndpointQueue } from "../../apps/web-service/src/dispatch/endpoint-queue.js";
import type { TaskEntry } from "../../apps/web-service/src/dispatch/task-entry.js";
import type { Service } from "./service.js";
import type { Told } from "./store.js";
import type { End, Message, Wire } from "./wire.js";

export const DIGEST = Buffer.alloc(32, 7);
/** Of the function whose calls need the node's one GPU. */
export const GPU_DIGEST = Buffer.alloc(32, 8);

/** Every third task needs it. */
const digestOf = (key: IdKey): Buffer => (key.charCodeAt(15) % 3 === 0 ? GPU_DIGEST : DIGEST);

/** One agent's connection, as gateway/agent-session.ts has it. */
export class AgentDoor implements End {
  wire!: Wire;
  queue: EndpointQueue | undefined;
  open = false;
  readonly inbox = new Inbox();
  readonly #credit = new Credit();
  readonly #sent = new Outbox<null>();
  readonly #service: Service;
  #marked: Mark = { accepted: 0, durable: 0 };

  constructor(service: Service) {
    this.#service = service;
  }

  get room(): number {
    return this.open && !this.wire.isCut ? this.#credit.room : 0;
  }

  receive(message: Message): void {
    const frame = message as Frame;
    if (!this.open) {
      if (frame.t === "hello") this.#service.claim(this, columnToKeys(frame.held!));
      return;
    }
    switch (frame.t) {
      case "results": {
        const span = this.inbox.receive(frame.n);
        if (this.#service.bugs.has("durable to the agent before the commit")) this.inbox.complete(span);
        this.#service.collect.take(this.queue!, frame, {
          settle: (unknown) => {
            if (unknown.length > 0) this.wire.sendDown({ t: "unknown", ids: keysToColumn(unknown) });
            this.inbox.complete(span);
          },
          stale: () => this.replaced(),
        });
        return;
      }
      case "credit":
        this.#credit.grant(frame.tasks, frame.bytes);
        return;
      case "mark": {
        const released = this.#sent.mark(frame);
        if ("bad" in released) throw new Error(released.bad);
        return;
      }
      case "returned":
        this.#service.returned(this, columnToKeys(frame.ids));
        return;
    }
  }

  closed(): void {
    this.#service.detach(this);
  }

  sendTasks(entries: TaskEntry[]): void {
    this.sendMark();
    const frame = buildTasks(entries, 0, entries.length, ({ key }) => digestOf(key));
    this.wire.sendDown(frame);
    for (let i = 0; i < entries.length; i++) this.#sent.push(null);
    this.#credit.use(entries.length, frame.args.length);
  }

  sendCancel(keys: readonly IdKey[]): void {
    this.wire.sendDown({ t: "cancel", ids: keysToColumn(keys) });
  }

  sendMark(): void {
    const mark = this.inbox.mark;
    if (mark.durable === this.#marked.durable) return;
    this.#marked = mark;
    this.wire.sendDown({ t: "mark", ...mark });
  }

  replaced(): void {
    this.wire.close();
  }
}

/** One client's connection: submissions are marked when they are committed, outcomes are told when they are. */
export class ClientDoor implements End {
  wire!: Wire;
  readonly #inbox = new Inbox();
  readonly #service: Service;
  #marked = 0;

  constructor(service: Service) {
    this.#service = service;
  }

  receive(message: Message): void {
    if (message.t === "submit") {
      const span = this.#inbox.receive(message.specs.length);
      if (this.#service.bugs.has("durable to the client before the commit")) this.#durable(span);
      this.#service.intake.take(message.specs, message.again, () => this.#durable(span));
    } else if (message.t === "wait") this.#service.watch(this, message.keys);
    else if (message.t === "cancel") this.#service.cancel(columnToKeys(message.ids));
  }

  closed(): void {
    this.#service.clients.delete(this);
  }

  tell(items: readonly Told[]): void {
    if (items.length > 0) this.wire.sendDown({ t: "outcomes", items });
  }

  #durable(span: ReturnType<Inbox["receive"]>): void {
    this.#inbox.complete(span);
    const mark = this.#inbox.mark;
    if (mark.durable === this.#marked) return;
    this.#marked = mark.durable;
    this.wire.sendDown({ t: "mark", ...mark });
  }
}
