/**
 * The provider of this machine: one block of one node, whose node manager lives in the agent's own process.
 *
 * A second block would share the same cores and the same run folder, so there is one at a time: `submit`
 * refuses another while one is running.
 */
import { NodeManager } from "../../node/node-manager.js";
import type { NodeManagerOptions } from "../../node/options.js";
import { createPortPair, type FramePort } from "../../node/port.js";
import type { BlockRequest, BlockStatus, Provider } from "../provider.js";

export interface LocalProviderOptions {
  /** Everything of the node manager but its port and how many workers it has. */
  readonly node: Omit<NodeManagerOptions, "port" | "workers">;
  /** A node of this block is there; the agent speaks to it through `port`. */
  readonly onNode: (blockId: string, port: FramePort) => void;
}

interface Block {
  readonly manager: NodeManager;
  status: BlockStatus;
}

export class LocalProvider implements Provider {
  readonly name = "local";
  readonly #options: LocalProviderOptions;
  readonly #blocks = new Map<string, Block>();
  #count = 0;

  constructor(options: LocalProviderOptions) {
    this.#options = options;
  }

  async submit(request: BlockRequest): Promise<string> {
    if (request.nodes !== 1) throw new Error(`a local block has one node, not ${request.nodes}`);
    for (const block of this.#blocks.values()) {
      if (block.status.state === "running") throw new Error("the local block is running already");
    }
    const id = request.id ?? `local${++this.#count}`;
    const [ours, theirs] = createPortPair();
    const manager = new NodeManager({ ...this.#options.node, port: theirs, workers: request.workersPerNode });
    const block: Block = { manager, status: { id, state: "running" } };
    this.#blocks.set(id, block);
    this.#options.onNode(id, ours);
    manager.start().catch((error: unknown) => {
      block.status = { id, state: "failed", detail: error instanceof Error ? error.message : String(error) };
      void manager.close();
    });
    if (request.walltimeMs !== undefined) {
      setTimeout(() => void this.#end(id, "walltime"), request.walltimeMs).unref();
    }
    return id;
  }

  async status(ids: readonly string[]): Promise<readonly BlockStatus[]> {
    return ids.map((id) => this.#blocks.get(id)?.status ?? { id, state: "unknown" });
  }

  async cancel(ids: readonly string[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#end(id, "cancelled")));
  }

  async #end(id: string, detail: string): Promise<void> {
    const block = this.#blocks.get(id);
    if (block?.status.state !== "running") return;
    block.status = { id, state: "ended", detail };
    await block.manager.close();
  }
}
