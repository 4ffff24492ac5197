/**
 * The client: wires the link, REST, payloads and the submitter, and is what a program holds. One is enough for a
 * program; it keeps one WebSocket, dialled by the first submission.
 */
import { createRequire } from "node:module";
import { FarloomError, isUuid, newBatchId, uuidToKey } from "@farloom/protocol";
import { remoteError } from "./errors.js";
import { type FunctionHost, FunctionLookup, RemoteFunction } from "./function.js";
import { type ArgumentsInput, type GroupOptions, TaskGroup } from "./group.js";
import { TaskHandle } from "./handle.js";
import { KeepAlive } from "./link/keep-alive.js";
import { ClientLink } from "./link/link.js";
import { ObjectsApi } from "./objects.js";
import { type FarloomOptions, type ResolvedOptions, resolveOptions } from "./options.js";
import { Payloads } from "./payloads.js";
import { RemoteTask } from "./remote-task.js";
import { AuditApi, EndpointsApi, FunctionsApi, KeysApi, TasksApi, TeamsApi } from "./resources.js";
import { Rest } from "./rest.js";
import { SecretsApi } from "./secrets.js";
import { attemptsOf, definitionOf, signRegistered } from "./signing.js";
import { type AnyFunction, functionSpec, type RegisterSpec } from "./source.js";
import { type CallOptions, type Lookup, type PreparedCall, Submitter } from "./submit.js";
import type { Task } from "./task.js";
import { WebhooksApi } from "./webhooks.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };
export const SOFTWARE = `farloom-sdk-js/${version} node/${process.versions.node}`;

/** How long `close` waits for what is not durable yet and for results that are awaited. */
const CLOSE_TIMEOUT_MS = 30_000;
/** Endpoints whose ids are remembered. */
const MAX_ENDPOINTS = 10_000;

export class Farloom {
  readonly options: ResolvedOptions;
  readonly functions: FunctionsApi;
  readonly endpoints: EndpointsApi;
  readonly tasks: TasksApi;
  readonly keys: KeysApi;
  readonly audit: AuditApi;
  readonly teams: TeamsApi;
  readonly webhooks: WebhooksApi;
  readonly objects: ObjectsApi;
  readonly secrets: SecretsApi;
  /** Plain requests, for routes that have no method here. */
  readonly rest: Rest;
  readonly #keepAlive = new KeepAlive();
  readonly #link: ClientLink;
  readonly #payloads: Payloads;
  readonly #submitter: Submitter;
  readonly #endpointLookups = new Map<string, EndpointLookup>();
  /** The group of single calls. */
  readonly #group = newBatchId();
  readonly #host: FunctionHost;
  #lastPlain: PreparedCall | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: FarloomOptions = {}) {
    this.options = resolveOptions(options);
    const { url, apiKey, login, connectForMs, reconnectForMs, requestAttempts } = this.options;
    this.rest = new Rest({ url, apiKey, login, software: SOFTWARE, attempts: requestAttempts });
    this.functions = new FunctionsApi(this.rest);
    this.endpoints = new EndpointsApi(this.rest);
    this.tasks = new TasksApi(this.rest);
    this.keys = new KeysApi(this.rest);
    this.audit = new AuditApi(this.rest);
    this.teams = new TeamsApi(this.rest);
    this.webhooks = new WebhooksApi(this.rest);
    this.objects = new ObjectsApi(this.rest);
    this.secrets = new SecretsApi(this.rest);
    this.#link = new ClientLink(
      { url, apiKey, login, software: SOFTWARE, connectForMs, reconnectForMs },
      this.#keepAlive,
    );
    this.#payloads = new Payloads(this.rest);
    this.#submitter = new Submitter({
      link: this.#link,
      payloads: this.#payloads,
      keepAlive: this.#keepAlive,
      signKey: this.options.signKey,
    });
    this.#host = {
      submit: (fn, args, o) => this.#submit(fn, args, o),
      map: (fn, input, o) => this.#map(fn, input, o),
      cancel: (task, cause) => this.#submitter.cancel(task, cause),
    };
  }

  /** A client from FARLOOM_URL and FARLOOM_API_KEY, or the configuration file that `farloom login` writes. */
  static fromEnv(options: FarloomOptions = {}): Farloom {
    return new Farloom(options);
  }

  /**
   * Registers a function; with a `signKey` it is signed, too. The same definition again is the same function, so this may
   * stand at the top of a script.
   */
  async register<A extends readonly unknown[] = readonly unknown[], R = unknown>(
    spec: RegisterSpec & { readonly fn?: (...args: [...A]) => R },
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<RemoteFunction<A, Awaited<R>>> {
    const whole = await functionSpec(spec as RegisterSpec & { fn?: AnyFunction });
    const info = await this.functions.register(whole, options);
    const { signKey } = this.options;
    if (signKey) await signRegistered(this.functions, { spec: whole, info, key: signKey }, options);
    const lookup = new FunctionLookup(info.id, () => this.functions.get(info.id));
    lookup.ref = info.ref;
    lookup.attempts = attemptsOf(definitionOf(whole));
    return new RemoteFunction(lookup, this.#host);
  }

  /** A registered function by `owner/name@version`, `name` (the newest version) or id; looked up at the first call. */
  function<A extends readonly unknown[] = readonly unknown[], R = unknown>(
    ref: string,
  ): RemoteFunction<A, R> {
    return new RemoteFunction(new FunctionLookup(ref, (r) => this.functions.get(r)), this.#host);
  }

  /** A task that was submitted elsewhere, or earlier, by its id. */
  task<R = unknown>(id: string): RemoteTask<R> {
    return new RemoteTask(id, this.tasks);
  }

  /** Dials, and waits until the service has answered: tells early what is wrong. */
  async ready(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    await this.rest.send({ path: "/health/ready", ...options });
  }

  /**
   * Takes nothing new, waits (30 s at most) until everything submitted is durable and awaited results are there, and
   * disconnects. Stopping is not cancelling: tasks run on. Idempotent.
   */
  close(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options.timeoutMs ?? CLOSE_TIMEOUT_MS);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([this.#keepAlive.idle(), timeout]);
    clearTimeout(timer);
    this.#link.close();
    this.rest.close();
  }

  #submit(fn: Lookup, args: readonly unknown[], options: CallOptions): { task: Task; handle: TaskHandle } {
    const call = this.#prepare(fn, options, this.#group);
    const task = this.#submitter.submit(call, args, 0);
    return { task, handle: new TaskHandle(task, groupText(call.group), this.#handleDeps) };
  }

  #map(fn: Lookup, input: ArgumentsInput, options: CallOptions & GroupOptions): TaskGroup {
    return new TaskGroup(this.#prepare(fn, options, newBatchId()), input, options, {
      ...this.#handleDeps,
      link: this.#link,
    });
  }

  get #handleDeps() {
    return {
      submitter: this.#submitter,
      payloads: this.#payloads,
      keepAlive: this.#keepAlive,
      tasks: this.tasks,
    };
  }

  #prepare(fn: Lookup, options: CallOptions, ownGroup: Buffer): PreparedCall {
    if (this.#closing !== undefined) throw new FarloomError("CLIENT_CLOSED");
    // The commonest call, the same function again with nothing but arguments, is prepared once.
    const last = this.#lastPlain;
    const plain = ownGroup === this.#group && isPlain(options);
    if (plain && last?.fn === fn) return last;
    const name = options.endpoint ?? this.options.endpoint;
    if (name === undefined) {
      throw new FarloomError("SETTING_MISSING", {
        what: "Where the call runs",
        cure: "Pass {endpoint} with the call or to the client, or set FARLOOM_ENDPOINT; 'farloom endpoint list' shows what there is",
      });
    }
    const group = options.group === undefined ? ownGroup : uuidBytes(options.group);
    const codec = options.codec ?? this.options.codec;
    const call = this.#submitter.prepare(fn, this.#endpoint(name), group, { ...options, codec });
    if (plain) this.#lastPlain = call;
    return call;
  }

  #endpoint(name: string): EndpointLookup {
    let lookup = this.#endpointLookups.get(name);
    if (lookup === undefined) {
      if (this.#endpointLookups.size >= MAX_ENDPOINTS) this.#endpointLookups.clear();
      lookup = new EndpointLookup(name, (n) => this.endpoints.get(n));
      this.#endpointLookups.set(name, lookup);
    }
    return lookup;
  }
}

/** An endpoint's id: given as one, or looked up by name once. */
class EndpointLookup implements Lookup {
  known: Buffer | undefined;
  readonly #name: string;
  readonly #find: (name: string) => Promise<{ id: string }>;
  #pending: Promise<Buffer> | undefined;

  constructor(name: string, find: (name: string) => Promise<{ id: string }>) {
    this.#name = name;
    this.#find = find;
    this.known = isUuid(name) ? uuidBytes(name) : undefined;
  }

  resolve(): Promise<Buffer> {
    this.#pending ??= this.#find(this.#name)
      .then(({ id }) => {
        this.known = uuidBytes(id);
        return this.known;
      })
      .finally(() => {
        this.#pending = undefined;
      });
    return this.#pending;
  }
}

function uuidBytes(text: string): Buffer {
  const key = uuidToKey(text);
  if (key === undefined) throw remoteError("REQUEST_INVALID", `"${text.slice(0, 80)}" is not a UUID.`);
  return Buffer.from(key, "latin1");
}

function groupText(group: Buffer): string {
  const hex = group.toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** Whether a call says nothing but its arguments. A signal is not the task's affair. */
function isPlain(options: CallOptions): boolean {
  for (const name in options) if (name !== "signal") return false;
  return true;
}
