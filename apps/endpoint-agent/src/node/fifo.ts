/** A queue on an array with a moving head: shift is O(1), and cutting off the spent front is amortised. */
export class Fifo<T> {
  #items: T[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  peek(): T | undefined {
    return this.#items[this.#head];
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head]!;
    this.#head++;
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    } else if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** Puts items back where they belong by their place; they are in that order, as the queue is. */
  putBack(items: readonly T[], placeOf: (item: T) => number): void {
    const merged: T[] = [];
    let at = this.#head;
    for (const item of items) {
      const place = placeOf(item);
      while (at < this.#items.length && placeOf(this.#items[at]!) < place) merged.push(this.#items[at++]!);
      merged.push(item);
    }
    this.#items = merged.concat(this.#items.slice(at));
    this.#head = 0;
  }

  /** Takes out the first item that satisfies `test`. Linear: for the rare road only. */
  remove(test: (item: T) => boolean): T | undefined {
    for (let i = this.#head; i < this.#items.length; i++) {
      if (!test(this.#items[i]!)) continue;
      return this.#items.splice(i, 1)[0];
    }
    return undefined;
  }

  /** The last `n`, in their order. */
  takeLast(n: number): T[] {
    return this.#items.splice(Math.max(this.#head, this.#items.length - n));
  }

  /** Everything, oldest first; the queue is empty afterwards. */
  takeAll(): T[] {
    const items = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    return items;
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (let i = this.#head; i < this.#items.length; i++) yield this.#items[i]!;
  }
}
