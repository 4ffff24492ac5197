/**
 * One running agent: takes its state folder, puts the parts together, and takes them apart again in the order
 * that loses nothing.
 */
import { isSea } from "node:sea";
import { fileURLToPath } from "node:url";
import type { AgentInfo } from "@farloom/protocol";
import { type Logger, pino } from "pino";
import { readAgentInfo, SOFTWARE } from "./agent-info.js";
import { AllowedFunctions } from "./allowed-functions.js";
import { AuditLog } from "./audit/audit-log.js";
import { startedEntry } from "./audit/life-entries.js";
import { TaskAudit } from "./audit/task-audit.js";
import { Blocks } from "./blocks/blocks.js";
import type { AgentConfig } from "./config.js";
import { Engine, type EngineStatus } from "./engine.js";
import { FunctionsCache } from "./functions-cache.js";
import { prepareIsolation } from "./isolation/probe.js";
import type { Sandbox } from "./isolation/sandbox.js";
import { Journal } from "./journal/journal.js";
import type { EndReason } from "./link/connection.js";
import { SessionTokens } from "./link/session-token.js";
import { type LinkState, LinkSupervisor } from "./link/supervisor.js";
import { NodeGear } from "./node/gear/node-gear.js";
import { createPortPair, type FramePort } from "./node/port.js";
import { LOCAL_NODE } from "./nodes/names.js";
import { PayloadStore } from "./payloads/payload-store.js";
import { PayloadTransfer } from "./payloads/payload-transfer.js";
import { TaskFiles } from "./payloads/task-files.js";
import { readBootId } from "./state/boot-id.js";
import { askControl, ControlSocket } from "./state/control.js";
import { type Identity, loadIdentity, readIdentity } from "./state/identity.js";
import { acquireLock, lockHolder } from "./state/lock.js";
import { openStateDir, statePaths } from "./state/state-dir.js";
import { TaskTokens } from "./task-tokens.js";
import { FunctionTrust } from "./trust/function-trust.js";
import { InvocationLedger } from "./trust/invocation-ledger.js";
import type { TrustMode } from "./trust/trust-file.js";
import { TrustSource } from "./trust/trust-source.js";

/** What runs the tasks, below the port. */
export interface AgentNode {
  start(): Promise<void>;
  /** Lets go of the workers, or with `stopWorkers` ends them and what they run. */
  close(options: { readonly stopWorkers: boolean }): Promise<void>;
}
export type NodeFactory = (place: {
  readonly port: FramePort;
  readonly log: Logger;
  readonly config: AgentConfig;
  readonly agentInfo: AgentInfo;
  /** What this machine's workers can be given for themselves. */
  readonly gear: NodeGear | undefined;
  /** How workers are to be started; undefined: as they are. */
  readonly sandbox: Sandbox | undefined;
}) => AgentNode;

/** What an agent tells of itself. */
export interface AgentStatus extends EngineStatus {
  readonly pid: number;
  readonly software: string;
  readonly endpointId: string;
  readonly name: string;
  readonly owner: string;
  readonly service: string;
  readonly link: LinkState;
  /** Whether unsigned functions run. */
  readonly trust: TrustMode;
  /** `number:hash` of its audit's last record; empty where it keeps none. */
  readonly audit: string;
  readonly agent: AgentInfo;
  readonly uptimeMs: number;
  /** Where nodes come from blocks: those, and what became of the last that failed. */
  readonly blocks?: Blocks["report"];
}

/** A running agent. `close` and `drain` are idempotent. */
export interface Agent extends AsyncDisposable {
  /**
   * Resolves when the service has closed its door to this agent for good: another agent has its identity now, or only
   * another version could speak to it. It leases nothing any more; whoever runs it should drain it and say why.
   */
  readonly shutOut: Promise<EndReason>;
  /** Tells the service, gives back what has not started, waits for the rest for at most `withinMs`, then closes. */
  drain(withinMs?: number): Promise<void>;
  /** Reads trust.toml again, where its file system tells of no changes. */
  rereadTrust(): void;
  /** Stops at once: everything accepted stays in the journal, what runs with its warm workers. */
  close(options?: { readonly stopWorkers?: boolean }): Promise<void>;
  status(): AgentStatus;
}

/** Program and arguments of a node of a block; the path of its parameters follows. In the single file all is one program. */
const NODE_COMMAND = isSea()
  ? [process.execPath, "node", "--parameters"]
  : [process.execPath, fileURLToPath(new URL("../dist/bundle/node.js", import.meta.url)), "--parameters"];

/**
 * Starts the agent of `config.stateDir`, over the given node or, where the configuration says so, over blocks. It
 * connects, and keeps connected, in the background.
 */
export async function runAgent(config: AgentConfig, makeNode: NodeFactory, log?: Logger): Promise<Agent> {
  const logger = log ?? pino({ level: config.logLevel });
  const paths = openStateDir(config.stateDir);
  const { identity, key } = loadIdentity(paths);
  const serviceUrl = config.serviceUrl ?? identity.serviceUrl;
  const lock = acquireLock(paths.lock);
  const undo: (() => void | Promise<void>)[] = [() => lock.release()];
  try {
    const bootId = readBootId();
    const isolation = await prepareIsolation(config.isolation, config.python);
    const gear = config.blocks === undefined ? await NodeGear.open(config.gear, process.env) : undefined;
    const agentInfo = await readAgentInfo(config, bootId, isolation.info, gear?.info);
    const tokens = new SessionTokens(serviceUrl, identity.endpointId, key);
    const store = new PayloadStore(paths.payloads, config.payloadCacheBytes);
    const transfer = new PayloadTransfer({
      serviceUrl,
      store,
      token: (signal) => tokens.get(signal),
      log: logger,
    });
    undo.push(() => transfer.close());
    const taskTokens = new TaskTokens({ serviceUrl, token: (signal) => tokens.get(signal), log: logger });
    undo.push(() => taskTokens.close());
    const { journal, replay } = Journal.open({ dir: paths.journal, bootId, log: logger });
    undo.push(() => journal.close());
    const functions = new FunctionsCache(paths.functions);
    const { audit: mode, auditKeepBytes: keepBytes } = config;
    const audit = AuditLog.open({ dir: paths.audit, mode, keepBytes, log: logger });
    undo.push(() => audit.close());
    const source = new TrustSource(paths.trustFile, config.trust);
    undo.push(() => source.close());
    const trust = new FunctionTrust({
      source,
      cache: functions,
      ledger: new InvocationLedger(paths.invocations),
      endpoint: { id: identity.endpointId, name: identity.name },
      audit,
      log: logger,
    });
    const { level } = config.isolation;
    const signerOf = (digest: Buffer) => trust.signerOf(digest);
    const taskAudit = new TaskAudit({ log: audit, functions, signerOf, isolation: level });
    audit.entry(
      startedEntry({ config, identity, serviceUrl, software: SOFTWARE, trust: source.mode, bootId }),
    );
    audit.write();
    const engine = new Engine({
      journal,
      replay,
      bootId,
      functions,
      allowed: new AllowedFunctions(config.allowFunctions, identity.name, functions, config.isolation.level),
      trust,
      audit,
      taskAudit,
      files: new TaskFiles(store, transfer),
      taskTokens,
      hasLocalNode: config.blocks === undefined,
      localPlaces: config.workers,
      windowTasks: config.windowTasks,
      windowBytes: config.windowBytes,
      reclaimMs: config.reclaimMs,
      software: SOFTWARE,
      service: serviceUrl,
      agentInfo,
      log: logger,
    });
    store.sweep();
    undo.push(() => engine.close());
    let node: AgentNode | undefined;
    let blocks: Blocks | undefined;
    if (config.blocks === undefined) {
      const [upper, lower] = createPortPair();
      engine.attachNode({ name: LOCAL_NODE }, upper);
      node = makeNode({ port: lower, log: logger, config, agentInfo, gear, sandbox: isolation.sandbox });
      await node.start();
    } else {
      const { endpointId } = identity;
      const place = { config, blocks: config.blocks, paths, endpointId, engine, log: logger };
      blocks = await Blocks.open({ ...place, audit, software: SOFTWARE, command: NODE_COMMAND });
    }
    undo.push(async () => {
      await node?.close({ stopWorkers: config.stopWorkers });
      await blocks?.close({ cancel: config.stopWorkers });
    });
    let onFinal!: (reason: EndReason) => void;
    const shutOut = new Promise<EndReason>((resolve) => {
      onFinal = (reason) => {
        audit.entry({ what: "link.shut_out", code: reason.code });
        engine.takeNothingMore();
        resolve(reason);
      };
    });
    const link = new LinkSupervisor({ serviceUrl, tokens, user: engine, log: logger, onFinal });
    const parts = {
      config,
      identity,
      serviceUrl,
      agentInfo,
      engine,
      node,
      blocks,
      link,
      transfer,
      taskTokens,
      source,
      audit,
      lock,
      shutOut,
      log: logger,
    };
    const agent = new RunningAgent(parts);
    agent.control = await ControlSocket.listen(paths.controlSocket, () => agent.status());
    link.start();
    return agent;
  } catch (error) {
    for (const step of undo.reverse()) await step();
    throw error;
  }
}

interface Parts {
  readonly config: AgentConfig;
  readonly identity: Identity;
  readonly serviceUrl: string;
  readonly agentInfo: AgentInfo;
  readonly engine: Engine;
  readonly node: AgentNode | undefined;
  readonly blocks: Blocks | undefined;
  readonly link: LinkSupervisor;
  readonly transfer: PayloadTransfer;
  readonly taskTokens: TaskTokens;
  readonly source: TrustSource;
  readonly audit: AuditLog;
  readonly lock: { release(): void };
  readonly shutOut: Promise<EndReason>;
  readonly log: Logger;
}

class RunningAgent implements Agent {
  readonly #parts: Parts;
  readonly #startedAtMs = performance.now();
  control: ControlSocket | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get shutOut(): Promise<EndReason> {
    return this.#parts.shutOut;
  }

  status(): AgentStatus {
    const { identity, serviceUrl, agentInfo, engine, link, blocks } = this.#parts;
    return {
      pid: process.pid,
      software: SOFTWARE,
      endpointId: identity.endpointId,
      name: identity.name,
      owner: identity.owner,
      service: serviceUrl,
      link: link.state,
      trust: this.#parts.source.mode,
      audit: this.#parts.audit.head,
      agent: agentInfo,
      uptimeMs: Math.round(performance.now() - this.#startedAtMs),
      ...(blocks === undefined ? {} : { blocks: blocks.report }),
      ...engine.status,
    };
  }

  rereadTrust(): void {
    this.#parts.source.reload();
  }

  async drain(withinMs = this.#parts.config.drainMs): Promise<void> {
    const { engine, audit, log } = this.#parts;
    audit.entry({ what: "operator.drain", withinMs });
    const { unfinished } = await engine.drain(withinMs);
    if (unfinished > 0) log.warn({ tasks: unfinished }, "these still run; the next start takes them over");
    await this.close();
  }

  close(options: { readonly stopWorkers?: boolean } = {}): Promise<void> {
    this.#closing ??= this.#close(options.stopWorkers ?? this.#parts.config.stopWorkers);
    return this.#closing;
  }

  async #close(stopWorkers: boolean): Promise<void> {
    const { link, node, blocks, engine, transfer, taskTokens, audit, lock } = this.#parts;
    audit.entry({ what: "agent.stopping", stopWorkers });
    await link.stop("the agent stops");
    engine.expectEnd();
    await node?.close({ stopWorkers });
    await blocks?.close({ cancel: stopWorkers });
    engine.close();
    transfer.close();
    taskTokens.close();
    this.control?.close();
    audit.entry({ what: "agent.stopped" });
    audit.close();
    lock.release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What the agent of a state folder says of itself; `running` is false where none runs. */
export async function agentStatus(
  stateDir: string,
): Promise<
  | { readonly running: true; readonly status: AgentStatus }
  | { readonly running: false; readonly pid: number | undefined; readonly identity: Identity | undefined }
> {
  const paths = statePaths(stateDir);
  const status = (await askControl(paths.controlSocket)) as AgentStatus | undefined;
  if (status !== undefined) return { running: true, status };
  return { running: false, pid: lockHolder(paths.lock)?.pid, identity: readIdentity(paths) };
}
