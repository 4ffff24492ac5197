/**
 * Memory that small payloads pass through: an upload is gathered in a slot, the disk thread writes it from there,
 * and the slot keeps the bytes until another upload needs it, as what is stored is mostly read a moment later.
 *
 *   S1  A slot that is held by anybody is never given to another: `hold` and `release` are paired.
 *   S2  Slots begin and end on pages, in memory that both threads see: what O_DIRECT asks for, and no copy.
 *
 * Bound: MEMORY_BYTES, of which only what was used is resident. Without a free slot a payload is streamed.
 */

/** What memory and devices are divided in. */
const PAGE_BYTES = 4096;
/** A payload above this is streamed, and never in memory whole. */
export const MAX_STAGED_BYTES = 4 * 1024 * 1024;

/** Sizes and numbers of slots: a megabyte of data has some bytes of JSON around it. */
const CLASSES = [
  { sizeBytes: 160 * 1024, slots: 96 },
  { sizeBytes: 1088 * 1024, slots: 24 },
  { sizeBytes: MAX_STAGED_BYTES, slots: 6 },
] as const;
const MEMORY_BYTES = CLASSES.reduce((sum, c) => sum + c.sizeBytes * c.slots, 0);

/** A WebAssembly memory is the only one that JavaScript can be sure begins on a page. */
interface WebAssemblyMemory {
  readonly Memory: new (size: {
    initial: number;
    maximum: number;
    shared: true;
  }) => { readonly buffer: SharedArrayBuffer };
}
const WASM_PAGE_BYTES = 65_536;

export interface Slot {
  /** Where it begins in the shared memory. */
  readonly offset: number;
  /** All of it; a payload's bytes come first. */
  readonly memory: Buffer;
  readonly shelf: Shelf;
  /** What it holds, once that is verified and stored. */
  hex: string | undefined;
  sizeBytes: number;
  holders: number;
}

/** The slots of one size: never used, or holding a payload that nobody reads now, longest unused first. */
interface Shelf {
  readonly sizeBytes: number;
  readonly empty: Slot[];
  readonly idle: Set<Slot>;
}

export class Staging {
  readonly shared: SharedArrayBuffer;
  readonly #shelves: readonly Shelf[];
  readonly #byHex = new Map<string, Slot>();

  constructor() {
    const { Memory } = (globalThis as unknown as { WebAssembly: WebAssemblyMemory }).WebAssembly;
    const pages = Math.ceil(MEMORY_BYTES / WASM_PAGE_BYTES);
    this.shared = new Memory({ initial: pages, maximum: pages, shared: true }).buffer;
    let offset = 0;
    this.#shelves = CLASSES.map(({ sizeBytes, slots }) => {
      const shelf: Shelf = { sizeBytes, empty: [], idle: new Set() };
      for (let i = 0; i < slots; i++, offset += sizeBytes) {
        const memory = Buffer.from(this.shared, offset, sizeBytes);
        shelf.empty.push({ offset, memory, shelf, hex: undefined, sizeBytes: 0, holders: 0 });
      }
      // The first is used first: memory that nobody needed is never touched.
      shelf.empty.reverse();
      return shelf;
    });
  }

  /** A slot for this many bytes, held by the caller; undefined where none is free. */
  take(sizeBytes: number): Slot | undefined {
    for (const shelf of this.#shelves) {
      if (shelf.sizeBytes < sizeBytes) continue;
      const slot = shelf.empty.pop() ?? this.#forget(shelf.idle.values().next().value);
      if (slot === undefined) continue;
      slot.holders = 1;
      slot.sizeBytes = sizeBytes;
      return slot;
    }
    return undefined;
  }

  /** Says what a held slot has in it, so that `find` finds it. */
  label(slot: Slot, hex: string): void {
    if (this.#byHex.has(hex)) return;
    slot.hex = hex;
    this.#byHex.set(hex, slot);
  }

  /** The slot with these bytes, held for the caller. */
  find(hex: string): Slot | undefined {
    const slot = this.#byHex.get(hex);
    if (slot === undefined) return undefined;
    slot.holders++;
    slot.shelf.idle.delete(slot);
    return slot;
  }

  release(slot: Slot): void {
    if (--slot.holders > 0) return;
    if (slot.hex === undefined) slot.shelf.empty.push(slot);
    else slot.shelf.idle.add(slot);
  }

  #forget(slot: Slot | undefined): Slot | undefined {
    if (slot?.hex === undefined) return undefined;
    slot.shelf.idle.delete(slot);
    this.#byHex.delete(slot.hex);
    slot.hex = undefined;
    return slot;
  }
}

/** How much of a slot is written so that the device gets whole pages. */
export function wholePages(sizeBytes: number): number {
  return Math.ceil(sizeBytes / PAGE_BYTES) * PAGE_BYTES;
}
