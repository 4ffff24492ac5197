/**
 * The provider of other hosts: a block is a node on each of some hosts, reached through the system's ssh and its
 * configuration.
 *
 * 1. What ssh runs there is constant; the node's command and parameters travel over standard input (remote-command.ts).
 * 2. A host has one block at a time.
 * 3. A block ends with its agent: the nodes' standard input ends then. So none is ever left behind, and none is found again.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { blockLog, withLastWords } from "../block-log.js";
import type { BlockRequest, BlockStatus, Provider } from "../provider.js";
import { remoteInput } from "./remote-command.js";
import type { SshOptions } from "./ssh-options.js";
import { SshSession } from "./ssh-session.js";

export interface SshProviderOptions {
  readonly options: SshOptions;
  /** Folder of the blocks' logs. Made where it is missing. */
  readonly logDir: string;
}

interface SshBlock {
  readonly id: string;
  readonly sessions: readonly SshSession[];
  readonly logFile: string;
  /** Why its end was asked for. */
  wish?: "cancelled" | "walltime";
}

/** Block secrets and worker init; what is larger is a mistake. */
const MOST_PARAMETER_BYTES = 1024 * 1024;
/** Blocks that are over are kept to answer for them. */
const MOST_BLOCKS = 4096;

export class SshProvider implements Provider {
  readonly name = "ssh";
  readonly #options: SshProviderOptions;
  readonly #blocks = new Map<string, SshBlock>();

  constructor(options: SshProviderOptions) {
    this.#options = options;
    mkdirSync(options.logDir, { recursive: true, mode: 0o700 });
  }

  /** Rejects where too few hosts are free. */
  async submit(request: BlockRequest): Promise<string> {
    const { options, logDir } = this.#options;
    const id = request.id ?? randomBytes(6).toString("hex");
    if (!/^[A-Za-z0-9]{1,32}$/.test(id)) throw new Error(`'${id}' cannot be the id of a block`);
    if (this.#blocks.has(id)) throw new Error(`block ${id} was submitted already`);
    const { size } = statSync(request.parametersFile);
    if (size > MOST_PARAMETER_BYTES) throw new Error(`the parameters of block ${id} have ${size} bytes`);
    const command = options.command.length === 0 ? request.command : options.command;
    const input = remoteInput(command, readFileSync(request.parametersFile));
    const hosts = this.#freeHosts().slice(0, request.nodes);
    if (hosts.length < request.nodes) {
      throw new Error(`a block of ${request.nodes} nodes needs as many hosts; ${hosts.length} are free`);
    }
    const logFile = blockLog(logDir, id);
    const sessions = hosts.map((host) => new SshSession(host, options, input, logFile));
    const block: SshBlock = { id, sessions, logFile };
    this.#blocks.set(id, block);
    this.#forgetOldest();
    if (request.walltimeMs !== undefined) {
      setTimeout(() => end(block, "walltime"), request.walltimeMs).unref();
    }
    return id;
  }

  async status(ids: readonly string[]): Promise<readonly BlockStatus[]> {
    return ids.map((id) => {
      const block = this.#blocks.get(id);
      return block === undefined ? { id, state: "unknown" } : statusOf(block);
    });
  }

  async cancel(ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      const block = this.#blocks.get(id);
      if (block !== undefined) end(block, "cancelled");
    }
  }

  #freeHosts(): string[] {
    const taken = new Set(
      [...this.#blocks.values()].flatMap(({ sessions }) =>
        sessions.filter(({ phase }) => phase.name !== "over").map(({ host }) => host),
      ),
    );
    return [...new Set(this.#options.options.hosts)].filter((host) => !taken.has(host));
  }

  #forgetOldest(): void {
    if (this.#blocks.size <= MOST_BLOCKS) return;
    const over = [...this.#blocks.values()].find(({ sessions }) =>
      sessions.every((s) => s.phase.name === "over"),
    );
    if (over !== undefined) this.#blocks.delete(over.id);
  }
}

function end(block: SshBlock, wish: "cancelled" | "walltime"): void {
  block.wish ??= wish;
  for (const session of block.sessions) session.stop();
}

function statusOf(block: SshBlock): BlockStatus {
  const { id, sessions, wish } = block;
  const phases = sessions.map(({ phase }) => phase);
  const nodes = sessions.filter(({ phase }) => phase.name === "running").map(({ host }) => host);
  if (nodes.length > 0) return { id, state: "running", nodes };
  if (phases.some(({ name }) => name === "connecting")) {
    return { id, state: "pending", detail: `ssh connects to ${sessions.map(({ host }) => host).join(", ")}` };
  }
  if (wish !== undefined) return { id, state: "ended", detail: wish };
  const failed = phases.find((phase) => phase.name === "over" && !phase.isWell);
  if (failed?.name !== "over") return { id, state: "ended", detail: "its nodes ended" };
  return { id, state: "failed", detail: withLastWords(failed.detail, block.logFile) };
}
