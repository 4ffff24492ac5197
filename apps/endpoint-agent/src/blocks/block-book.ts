/**
 * The blocks there are, and which nodes of them may speak: durable, so that a restarted agent knows its blocks again
 * and its nodes find their way back.
 *
 *   B1  A change is on the disk before anybody acts on it: a block before it is asked for, a node before its welcome.
 *   B2  Of secrets and tokens only hashes are kept; they are compared in constant time.
 *   B3  A block's secret admits each of its nodes once, and no more nodes than the block has. A node is known by the
 *       token that it made itself and said then. One that was given up is never admitted again.
 *   B4  A block that its batch system starts again (a requeue) says a higher `restart`. That fences all nodes of the
 *       starts before: should they still run, they are refused.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import type { HelloFrame } from "@farloom/protocol";
import { nodeName } from "../nodes/names.js";

/** One block, as it is kept. */
export interface BlockEntry {
  readonly id: string;
  /** What the provider calls it; absent until it has answered. */
  providerId?: string;
  readonly nodes: number;
  readonly workersPerNode: number;
  readonly secretHash: string;
  /** The start that counts (B4). */
  restart: number;
  /** By the name that the scheduler and the journal know: hash of the node's token, or null where it was given up. */
  readonly admitted: Record<string, string | null>;
  /** When the first node of this start came, by this machine's clock: for the walltime, over a restart of the agent. */
  startedAtMs?: number;
  /** This agent wants it to end. */
  releasing?: boolean;
}

interface Kept {
  readonly port?: number | undefined;
  readonly blocks: readonly BlockEntry[];
}

export type Admission =
  | { readonly ok: true; readonly block: string; readonly node: string; readonly fenced: readonly string[] }
  /** For the log alone: the peer is told nothing that helps it to guess. `mayTryAgain`: it is not the node's fault. */
  | { readonly ok: false; readonly reason: string; readonly mayTryAgain: boolean };

const NODE_NAME = /^[A-Za-z0-9._-]{1,100}$/;

export class BlockBook {
  readonly #path: string;
  readonly #blocks = new Map<string, BlockEntry>();
  #port: number | undefined;

  /** Reads the book at `path`; a missing one is empty. */
  constructor(path: string) {
    this.#path = path;
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw new Error(`${path} cannot be read`, { cause: error });
    }
    const kept = JSON.parse(text) as Kept;
    this.#port = kept.port;
    for (const entry of kept.blocks) this.#blocks.set(entry.id, entry);
  }

  /** Where the door for nodes was last: the next agent opens it there again. */
  get port(): number | undefined {
    return this.#port;
  }

  set port(port: number) {
    this.#port = port;
    this.save();
  }

  get blocks(): ReadonlyMap<string, BlockEntry> {
    return this.#blocks;
  }

  /** A new block, and its secret, which only its parameters have (B2). */
  add(nodes: number, workersPerNode: number): { readonly entry: BlockEntry; readonly secret: string } {
    const secret = randomBytes(32).toString("base64url");
    const entry: BlockEntry = {
      id: `b${randomBytes(8).toString("hex")}`,
      nodes,
      workersPerNode,
      secretHash: hashOf(secret),
      restart: 0,
      admitted: {},
    };
    this.#blocks.set(entry.id, entry);
    this.save();
    return { entry, secret };
  }

  remove(id: string): void {
    if (this.#blocks.delete(id)) this.save();
  }

  /** Nodes that may speak. */
  nodesOf(id: string): string[] {
    const admitted = this.#blocks.get(id)?.admitted ?? {};
    return Object.keys(admitted).filter((name) => admitted[name] !== null);
  }

  /** The block of a node, by the node's name. */
  blockOf(node: string): BlockEntry | undefined {
    return this.#blocks.get(node.slice(0, node.indexOf("/")));
  }

  /** Who says this hello, and whether it may (B3, B4). */
  admit(hello: HelloFrame): Admission {
    const entry = this.#blocks.get(hello.block ?? "");
    if (entry === undefined) return refused("its block is not known, or has ended");
    const { node = "", token = "", secret = "", restart = 0 } = hello;
    if (!NODE_NAME.test(node)) return refused("a node's name is letters, digits, '.', '_' and '-'");
    if (token.length < 32) return refused("it brings no token");
    const name = nodeName(entry.id, node, restart);
    const known = entry.admitted[name];
    if (known !== undefined && known !== null && isHashOf(known, token)) {
      return restart === entry.restart
        ? { ok: true, block: entry.id, node: name, fenced: [] }
        : refused("its block was started again since");
    }
    if (!isHashOf(entry.secretHash, secret)) {
      return refused(known === null ? "it was given up before" : "wrong token, or wrong secret");
    }
    if (known !== undefined) return refused("the secret was used for this node already");
    if (restart < entry.restart) return refused("its block was started again since");
    if (restart === entry.restart && this.#admittedIn(entry) >= entry.nodes)
      return refused(`the secret was used by as many nodes as the block has (${entry.nodes})`);
    const fenced = restart > entry.restart ? this.nodesOf(entry.id) : [];
    const before = { restart: entry.restart, admitted: { ...entry.admitted } };
    if (restart > entry.restart) delete entry.startedAtMs;
    for (const old of fenced) entry.admitted[old] = null;
    entry.restart = restart;
    entry.admitted[name] = hashOf(token);
    try {
      this.save(); // B1
    } catch (error) {
      delete entry.admitted[name];
      entry.restart = before.restart;
      Object.assign(entry.admitted, before.admitted);
      return { ok: false, reason: `the book cannot be written: ${String(error)}`, mayTryAgain: true };
    }
    return { ok: true, block: entry.id, node: name, fenced };
  }

  /** This node may not come back. Throws where that cannot be written; it holds in this process all the same. */
  giveUp(node: string): void {
    const entry = this.blockOf(node);
    if (entry === undefined || entry.admitted[node] === undefined) return;
    entry.admitted[node] = null;
    this.save();
  }

  /** Written aside and renamed; what an entry's owner changed in it is kept too. */
  save(): void {
    const kept: Kept = { port: this.#port, blocks: [...this.#blocks.values()] };
    const aside = `${this.#path}.new`;
    writeFileSync(aside, `${JSON.stringify(kept, null, 2)}\n`, {
      mode: 0o600,
      flush: true,
    });
    chmodSync(aside, 0o600);
    renameSync(aside, this.#path);
  }

  /** How many nodes the secret was used for in the start that counts. */
  #admittedIn({ admitted, restart }: BlockEntry): number {
    return Object.keys(admitted).filter((name) => startOfName(name) === restart).length;
  }
}

/** The block's start that a node's name tells of. */
function startOfName(name: string): number {
  const at = name.lastIndexOf("~");
  return at < 0 ? 0 : Number(name.slice(at + 1));
}

function refused(reason: string): Admission {
  return { ok: false, reason, mayTryAgain: false };
}

function hashOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

function isHashOf(hash: string, secret: string): boolean {
  const [ours, theirs] = [Buffer.from(hash, "hex"), Buffer.from(hashOf(secret), "hex")];
  return ours.length === theirs.length && timingSafeEqual(ours, theirs);
}
