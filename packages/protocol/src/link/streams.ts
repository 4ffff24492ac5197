/**
 * The two halves of a stream of items, as every hop has them (PROTOCOL.md section 3). Pure counting and
 * custody: no sockets, no timers. Positions count from 1 and live for one session.
 *
 *   Outbox    the sender: keeps each item until the receiver's durable mark covers it (P11)
 *   Inbox     the receiver: turns completions, in whatever order they come, into cumulative marks (P10)
 *   Credit    the sender's side of credit (P9)
 */
export interface Mark {
  readonly accepted: number;
  readonly durable: number;
}

/** Keeps sent items, oldest first, until they are covered. */
export class Outbox<T> {
  #items: T[] = [];
  /** How many of #items were released but not yet cut off the array: cutting one by one would be quadratic. */
  #head = 0;
  #sent = 0;
  #accepted = 0;
  #durable = 0;

  /** Position of the last item sent. */
  get sent(): number {
    return this.#sent;
  }
  get accepted(): number {
    return this.#accepted;
  }
  /** Items not yet covered by a durable mark. */
  get size(): number {
    return this.#items.length - this.#head;
  }

  /** Takes an item into custody as it is sent; returns its position. */
  push(item: T): number {
    this.#items.push(item);
    return ++this.#sent;
  }

  /** Applies a mark; returns the items that it covers, in order. A mark that goes back or past what was sent is refused. */
  mark(mark: Mark): T[] | { readonly bad: string } {
    if (mark.durable > mark.accepted || mark.accepted > this.#sent) {
      return { bad: `mark ${mark.accepted}/${mark.durable} is beyond ${this.#sent} sent` };
    }
    if (mark.accepted < this.#accepted || mark.durable < this.#durable) {
      return {
        bad: `mark ${mark.accepted}/${mark.durable} goes back from ${this.#accepted}/${this.#durable}`,
      };
    }
    this.#accepted = mark.accepted;
    const count = mark.durable - this.#durable;
    this.#durable = mark.durable;
    const released = this.#items.slice(this.#head, this.#head + count);
    this.#head += count;
    if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return released;
  }

  /** The items at positions `from … from+n-1`, as far as they are still in custody. */
  at(from: number, n: number): T[] {
    const first = from - this.#durable - 1 + this.#head;
    return this.#items.slice(Math.max(this.#head, first), Math.max(this.#head, first + n));
  }

  /** Everything still in custody, for sending again in the next session, which begins now. */
  restart(): T[] {
    const left = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    this.#sent = this.#accepted = this.#durable = 0;
    return left;
  }
}

/** A run of positions that become durable together. */
interface Span {
  readonly from: number;
  n: number;
  done: boolean;
}

/** Counts what came in, and says how far it is taken and durable without gaps. */
export class Inbox {
  #received = 0;
  #accepted = 0;
  #durable = 0;
  #spans: Span[] = [];

  get received(): number {
    return this.#received;
  }

  /** `n` items came; returns the span to complete once they are durable. They count as accepted from now. */
  receive(n: number): Span {
    const span: Span = { from: this.#received + 1, n, done: false };
    this.#received += n;
    this.#accepted = this.#received;
    this.#spans.push(span);
    return span;
  }

  /** These items are durable. Returns true where the durable mark moved. */
  complete(span: Span): boolean {
    span.done = true;
    let i = 0;
    while (i < this.#spans.length && this.#spans[i]!.done) {
      this.#durable = this.#spans[i]!.from + this.#spans[i]!.n - 1;
      i++;
    }
    if (i > 0) this.#spans.splice(0, i);
    return i > 0;
  }

  /** The cumulative marks to tell the sender. */
  get mark(): Mark {
    return { accepted: this.#accepted, durable: this.#durable };
  }
}

export type { Span };

/** What the receiver allows the sender, both counted from the session's start. */
export class Credit {
  #limitTasks = 0;
  #limitBytes = 0;
  #usedTasks = 0;
  #usedBytes = 0;

  /** Applies a credit frame; it never shrinks. */
  grant(tasks: number, bytes: number): void {
    this.#limitTasks = Math.max(this.#limitTasks, tasks);
    this.#limitBytes = Math.max(this.#limitBytes, bytes);
  }

  /** How many more tasks may be sent; 0 also where the bytes are spent. */
  get room(): number {
    return this.#usedBytes >= this.#limitBytes ? 0 : this.#limitTasks - this.#usedTasks;
  }

  /** How many more bytes may be sent before the last task that may overdraw. */
  get roomBytes(): number {
    return Math.max(0, this.#limitBytes - this.#usedBytes);
  }

  use(tasks: number, bytes: number): void {
    this.#usedTasks += tasks;
    this.#usedBytes += bytes;
  }
}
