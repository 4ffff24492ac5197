/**
 * The agent's blocks, put together: the provider, the book of what there is, the door for nodes, the pool of those that
 * are here, and the manager that decides how many there should be.
 *
 *     work ─► manager ─► provider ─► (a batch system) ─► node program
 *              ▲  │                                            │ TLS
 *              │  └─► book ◄─ pool ◄─────────── door ◄─────────┘
 *              └──────────────┘└─► engine
 *
 * In the state folder: `blocks/book.json`, `blocks/door.json` (certificate and key), `blocks/<id>.json` (parameters) and
 * `blocks/logs/`. All are readable by nobody else.
 */
import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import type { AuditLog } from "../audit/audit-log.js";
import type { AgentConfig } from "../config.js";
import type { Engine } from "../engine.js";
import { loadCertificate } from "../nodes/certificate.js";
import { NodeDoor } from "../nodes/node-door.js";
import { NodePool } from "../nodes/node-pool.js";
import type { StatePaths } from "../state/state-dir.js";
import { BlockBook } from "./block-book.js";
import { BlockManager } from "./block-manager.js";
import type { BlocksConfig } from "./blocks-config.js";
import { type BlockParameters, readParameters, writeParameters } from "./parameters.js";
import { makeProvider } from "./providers.js";

/** Nodes of cancelled blocks that run nothing say so, and end, within this; what still runs has no one to tell. */
const CANCEL_WAIT_MS = 5_000;

export interface BlocksOptions {
  readonly config: AgentConfig;
  readonly blocks: BlocksConfig;
  readonly paths: StatePaths;
  readonly endpointId: string;
  readonly engine: Engine;
  readonly audit: AuditLog;
  readonly software: string;
  /** Program and arguments of a node, but for the parameters file. */
  readonly command: readonly string[];
  readonly log: Logger;
}

export class Blocks {
  readonly #door: NodeDoor;
  readonly #pool: NodePool;
  readonly #manager: BlockManager;
  readonly #engine: Engine;

  private constructor(door: NodeDoor, pool: NodePool, manager: BlockManager, engine: Engine) {
    this.#door = door;
    this.#pool = pool;
    this.#manager = manager;
    this.#engine = engine;
  }

  /** Opens the door, and takes up the blocks of an earlier agent. */
  static async open(options: BlocksOptions): Promise<Blocks> {
    const { config, blocks, paths, engine, log, software } = options;
    const dir = join(paths.root, "blocks");
    const logDir = join(dir, "logs");
    for (const one of [dir, logDir]) {
      mkdirSync(one, { recursive: true, mode: 0o700 });
      chmodSync(one, 0o700);
    }
    const provider = makeProvider(blocks.provider, {
      options: blocks.providerOptions,
      endpointId: options.endpointId,
      logDir,
      log,
    });
    const book = new BlockBook(join(dir, "book.json"));
    const certificate = loadCertificate(join(dir, "door.json"));
    const pool: NodePool = new NodePool({
      engine,
      book,
      software,
      graceMs: blocks.nodeGraceMs,
      log,
      onChange: (block, change) => manager.nodesChanged(block, change),
    });
    const door = await NodeDoor.open({
      certificate,
      host: blocks.address,
      port: blocks.port === 0 ? (book.port ?? 0) : blocks.port,
      log,
      onHello: (hello, port) => pool.hello(hello, port),
    });
    book.port = door.port;
    const parametersFile = (block: string): string => join(dir, `${block}.json`);
    const told = blocks.callback.map((one) => {
      const [host = "", port = String(door.port)] = one.split(":");
      return { host, port: Number(port) };
    });
    const callback = {
      addresses: told.length > 0 ? told : door.addresses,
      fingerprint: certificate.fingerprint,
    };
    for (const block of book.blocks.keys()) renewParameters(parametersFile(block), callback, log);
    const manager: BlockManager = new BlockManager({
      provider,
      nodes: pool,
      book,
      limits: { ...blocks, placesPerBlock: blocks.nodesPerBlock * blocks.workersPerNode },
      nodesPerBlock: blocks.nodesPerBlock,
      workersPerNode: blocks.workersPerNode,
      walltimeMs: blocks.walltimeMs,
      drainBeforeMs: blocks.drainBeforeMs,
      statusMs: blocks.statusMs,
      command: options.command,
      writeParameters: (entry, secret) => {
        const path = parametersFile(entry.id);
        writeParameters(path, {
          version: 1,
          block: entry.id,
          secret,
          ...callback,
          workersPerNode: entry.workersPerNode,
          prefetch: blocks.prefetch,
          workerInit: blocks.workerInit,
          python: config.python,
          environments: config.environments,
          gear: config.gear,
          isolation: config.isolation,
          killGraceMs: config.killGraceMs,
          recycle: { tasks: config.recycleTasks, memoryKb: config.recycleMemoryMb * 1024 },
          payloadsDir: paths.payloads,
          giveUpMs: blocks.nodeGiveUpMs,
          logLevel: config.logLevel,
        });
        return path;
      },
      removeParameters: (block) => rmSync(parametersFile(block), { force: true }),
      work: () => engine.work,
      onStanding: () => engine.blocksChanged(),
      onChange: (entry) => options.audit.entry(entry),
      log,
    });
    engine.blocksReport = () => ({ provider: provider.name, ...manager.standing });
    log.info(
      { provider: provider.name, door: callback.addresses, blocks: book.blocks.size },
      "blocks are managed",
    );
    engine.onWork = () => manager.workChanged();
    pool.begin();
    await manager.begin();
    return new Blocks(door, pool, manager, engine);
  }

  get report(): BlockManager["report"] {
    return this.#manager.report;
  }

  /** Lets go of the nodes, which wait for the next agent, or with `cancel` ends all blocks. Idempotent. */
  async close(options: { readonly cancel: boolean }): Promise<void> {
    this.#engine.onWork = () => undefined;
    await this.#manager.close(options);
    if (options.cancel) await this.#pool.ended(CANCEL_WAIT_MS);
    this.#pool.close();
    this.#door.close();
  }
}

/** A block of an earlier agent learns where this one listens. */
function renewParameters(
  path: string,
  callback: Pick<BlockParameters, "addresses" | "fingerprint">,
  log: Logger,
): void {
  try {
    writeParameters(path, { ...readParameters(path), ...callback });
  } catch (error) {
    log.warn({ err: error, path }, "a block's parameters cannot be renewed; its nodes know the old address");
  }
}
