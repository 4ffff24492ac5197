/** Which nodes tasks over whole nodes keep for themselves (S9), and which they are given. */
import { LOCAL_NODE } from "../nodes/names.js";
import type { HeldTask } from "./held-task.js";
import type { NodeState } from "./node-state.js";

/** The block of a node, by its name (nodes/names.ts). */
export function blockOf(node: string): string {
  return node === LOCAL_NODE ? node : node.slice(0, Math.max(0, node.indexOf("/")));
}

export class WholeNodes {
  readonly #byNode = new Map<string, HeldTask>();
  /** Of a task whose nodes nobody remembers: its block. */
  readonly #byBlock = new Map<string, HeldTask>();

  keeps(node: string): boolean {
    return this.#byNode.has(node) || this.#byBlock.has(blockOf(node));
  }

  keep(task: HeldTask): void {
    const { names = [] } = task.whole ?? {};
    for (const name of names) this.#byNode.set(name, task);
    if (names.length === 0 && task.node !== undefined) this.#byBlock.set(blockOf(task.node), task);
  }

  letGo(task: HeldTask): void {
    for (const kept of [this.#byNode, this.#byBlock]) {
      for (const [name, by] of kept) if (by === task) kept.delete(name);
    }
  }
}

/** So many nodes of one block, the one that has the least to finish; undefined where no block has as many of these. */
export function leastBusy(nodes: readonly NodeState[], wanted: number): NodeState[] | undefined {
  const blocks = new Map<string, NodeState[]>();
  for (const node of nodes) {
    // A node that is there alone answers for all of them.
    if (node.capacity?.alone === true) return [node];
    const block = blocks.get(blockOf(node.name));
    if (block) block.push(node);
    else blocks.set(blockOf(node.name), [node]);
  }
  let best: { readonly nodes: NodeState[]; readonly busy: number } | undefined;
  for (const block of blocks.values()) {
    if (block.length < wanted) continue;
    const chosen = block.sort((a, b) => busy(a) - busy(b) || byName(a, b)).slice(0, wanted);
    const sum = chosen.reduce((all, node) => all + busy(node), 0);
    if (best === undefined || sum < best.busy) best = { nodes: chosen.sort(byName), busy: sum };
  }
  return best?.nodes;
}

function busy(node: NodeState): number {
  return node.handed + (node.isKept ? 1 : 0);
}

/** `b1/node2` before `b1/node10`: the first is where the batch system's own first node is. */
function byName(a: NodeState, b: NodeState): number {
  return a.name.localeCompare(b.name, "en", { numeric: true });
}
