/** The REST API in types: functions, endpoints, tasks, keys. Lists come page by page; `all` walks the pages. */
import type {
  AuditEntry,
  CommandSpec,
  EnvironmentSpec,
  Mode,
  Reason,
  Resources,
  Runtime,
  TaskState,
  WaitCode,
} from "@farloom/protocol";
import type { Rest } from "./rest.js";
import type { TaskProgress } from "./task.js";

/** One page of a list. */
export interface Page<T> {
  readonly items: T[];
  /** Where the next page begins; absent on the last one. */
  readonly nextCursor?: string | null;
}

export interface PageOptions {
  readonly cursor?: string | undefined;
  readonly limit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What registers a function. Times in milliseconds. */
export interface FunctionSpec {
  readonly name: string;
  readonly runtime: Runtime;
  readonly code?: string;
  readonly format?: "source" | "pickle";
  /** The name in the code that is called. */
  readonly entry?: string;
  /** Default: `at_most_once`; `at_least_once` where retries are asked for. */
  readonly mode?: Mode;
  readonly timeoutMs?: number;
  readonly retries?: number;
  readonly backoffMs?: number;
  readonly env?: EnvironmentSpec;
  readonly resources?: Resources;
  readonly command?: CommandSpec;
  readonly argsSchema?: unknown;
  readonly resultSchema?: unknown;
  readonly description?: string;
}

export interface FunctionInfo extends Partial<Omit<FunctionSpec, "name">> {
  /** SHA-256 of the definition, 64 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly version: number;
  /** `owner/name@version`. */
  readonly ref: string;
  readonly createdAt?: string;
}

/** A signature of a function, as the service keeps it. */
export interface FunctionSignature {
  /** The SHA-256 of the envelope. */
  readonly id: string;
  /** A DSSE envelope, canonical JSON. */
  readonly envelope: string;
  /** Which keys signed, by what the envelope says. */
  readonly keyIds: readonly string[];
  /** The name that was signed: `owner/name` or `owner/name@version`. */
  readonly name: string;
  readonly expiresAt?: string;
  readonly addedBy: string;
  readonly addedAt: string;
}

export interface EndpointInfo {
  readonly id: string;
  readonly name: string;
  readonly owner?: string;
  /** What you may do: view, invoke, manage, or own. */
  readonly access?: string;
  /** An agent has handed in its key. */
  readonly enrolled?: boolean;
  readonly connected?: boolean;
  readonly connectedAt?: string | null;
  readonly agentInfo?: Readonly<Record<string, unknown>> | null;
  readonly queued?: number;
  readonly leased?: number;
  readonly createdAt?: string;
}

/** What an entry allows or denies; each level includes those below it. */
export type AccessLevel = "view" | "invoke" | "manage";

/** What one person, or the members of a team, may do with an endpoint; deny wins. */
export interface AccessEntry {
  readonly person?: string;
  /** By name, or owner/name. */
  readonly team?: string;
  readonly allow?: AccessLevel;
  readonly deny?: AccessLevel;
}

/** Who may do what with an endpoint, and the functions that it runs; empty: all. */
export interface EndpointAccess {
  readonly entries: readonly AccessEntry[];
  readonly functions: readonly string[];
}

export interface NewEndpoint extends EndpointInfo {
  /** One time, shown once: `farloom endpoint enroll` takes it. */
  readonly enrolmentCode: string;
  readonly enrolmentExpiresAt?: string;
  /** To run on the machine that shall be this endpoint. */
  readonly command?: string;
}

/** Why a task is not running yet. */
export interface TaskWaiting {
  /** `delay`, `endpoint` or `worker`. */
  readonly for: string;
  /** Of a closed list (docs/waiting.md). */
  readonly code: WaitCode;
  /** The same in a sentence. */
  readonly message: string;
  readonly since?: string;
  readonly until?: string;
  /** When the batch system expects the endpoint's block to begin. */
  readonly estimatedStart?: string;
}

/** Bytes of one stream of a task's output. */
export interface OutputPart {
  readonly attempt: number;
  /** Where they begin: later than asked where what lay between was not kept. */
  readonly offset: number;
  readonly nextOffset: number;
  readonly bytes: Buffer;
  /** Whether more of this attempt may come. */
  readonly more: boolean;
  readonly lastAttempt: number;
}

/** A task as the service shows it; fields are absent where there is nothing to say. */
export interface TaskInfo {
  readonly id: string;
  readonly group: string;
  readonly state: TaskState;
  readonly reason?: Reason;
  readonly function?: string;
  readonly functionId?: string;
  readonly endpoint?: string;
  readonly endpointName?: string;
  readonly attempt?: number;
  readonly submittedAt?: string;
  readonly startedAt?: string;
  readonly finishedAt?: string;
  readonly cancelRequested?: boolean;
  /** Why it is not running yet. */
  readonly waiting?: TaskWaiting;
  /** How far the running function says that it is. */
  readonly progress?: TaskProgress;
  readonly result?: unknown;
  /** Where a large result is. */
  readonly resultPayload?: { readonly digest: string; readonly sizeBytes: number; readonly codec: string };
  readonly error?: { readonly type: string; readonly message: string; readonly traceback?: string };
  readonly stdout?: string;
  readonly stderr?: string;
  /** Of a task that was cancelled or ran out of time: whether it is certain that no process of it is left. */
  readonly confirmed?: boolean;
  /** What its agent told after the task had ended without it; the state above is the outcome. */
  readonly late?: {
    readonly state: string;
    readonly reason?: string;
    readonly attempt: number;
    readonly receivedAt: string;
    readonly result?: unknown;
    readonly error?: { readonly type: string; readonly message: string };
  };
  readonly exitCode?: number;
  readonly worker?: string;
  /** Milliseconds: in all, on the road, waiting on the agent, running, on the CPU. */
  readonly times?: {
    readonly totalMs: number;
    readonly roadMs: number;
    readonly queueMs: number;
    readonly runMs: number;
    readonly cpuMs: number;
  };
}

/** What cancelling several tasks did. */
export interface CancelSummary {
  /** Open tasks that were told to end. */
  readonly requested: number;
  readonly finished: number;
  readonly missing: readonly string[];
}

export interface KeyInfo {
  readonly id: string;
  readonly label: string;
  readonly scopes: readonly string[];
  /** Ids of endpoints, and functions, that it is for alone; empty: everything of its owner's. */
  readonly endpoints?: readonly string[];
  readonly functions?: readonly string[];
  readonly createdAt?: string;
  readonly expiresAt?: string;
  readonly revokedAt?: string;
}

/** What makes a key. Default: all scopes of the maker, 90 days, everything of its owner's. */
export interface KeySpec {
  readonly label: string;
  readonly scopes?: readonly string[];
  /** Ids or names: for these endpoints alone. */
  readonly endpoints?: readonly string[];
  /** Ids, `owner/name` or `owner/name@version`, with `*` for any letters: for these functions alone. */
  readonly functions?: readonly string[];
  /** 1 to 366. */
  readonly expiresInDays?: number;
}

export interface NewKey extends KeyInfo {
  /** The key itself; shown once. */
  readonly key: string;
}

type Signal = { readonly signal?: AbortSignal | undefined };

/** A part of a path; refs hold slashes. */
const part = encodeURIComponent;

export class FunctionsApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  /** Registering the same definition twice gives the same function. */
  register(spec: FunctionSpec, { signal }: Signal = {}): Promise<FunctionInfo> {
    return this.#rest.json({ method: "POST", path: "/v1/functions", json: spec, signal, idempotent: true });
  }
  list({
    q,
    signal,
    ...page
  }: PageOptions & { readonly q?: string | undefined } = {}): Promise<Page<FunctionInfo>> {
    return this.#rest.json({ path: "/v1/functions", query: { q, ...page }, signal });
  }
  all(
    options: Omit<PageOptions, "cursor"> & { readonly q?: string | undefined } = {},
  ): AsyncGenerator<FunctionInfo> {
    return allPages((cursor) => this.list({ ...options, cursor }));
  }
  get(ref: string, { signal }: Signal = {}): Promise<FunctionInfo> {
    return this.#rest.json({ path: `/v1/functions/${part(ref)}`, signal });
  }
  /** Its signatures, the newest first; whom to believe agents decide. */
  signatures(ref: string, { signal }: Signal = {}): Promise<{ readonly items: FunctionSignature[] }> {
    return this.#rest.json({ path: `/v1/functions/${part(ref)}/signatures`, signal });
  }
  /** Adds a signature, a DSSE envelope (PROTOCOL.md P37). */
  addSignature(
    ref: string,
    envelope: string,
    { signal }: Signal = {},
  ): Promise<{ readonly items: FunctionSignature[] }> {
    const path = `/v1/functions/${part(ref)}/signatures`;
    return this.#rest.json({ method: "POST", path, json: { envelope }, signal, idempotent: true });
  }
  async delete(ref: string, { signal }: Signal = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: `/v1/functions/${part(ref)}`, signal });
  }
  /** Who else may use one version: nobody, the members of a team, or everybody. */
  share(
    ref: string,
    sharing: { readonly visibility: "private" | "team" | "public"; readonly team?: string },
    { signal }: Signal = {},
  ): Promise<FunctionInfo> {
    const path = `/v1/functions/${part(ref)}/sharing`;
    return this.#rest.json({ method: "PUT", path, json: sharing, signal, idempotent: true });
  }
}

export class EndpointsApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  create(name: string, { signal }: Signal = {}): Promise<NewEndpoint> {
    return this.#rest.json({ method: "POST", path: "/v1/endpoints", json: { name }, signal });
  }
  /** A new enrolment code; the agent that uses it replaces the one before. */
  newCode(idOrName: string, { signal }: Signal = {}): Promise<NewEndpoint> {
    const path = `/v1/endpoints/${part(idOrName)}/enrolment-code`;
    return this.#rest.json({ method: "POST", path, json: {}, signal });
  }
  list({ signal, ...page }: PageOptions = {}): Promise<Page<EndpointInfo>> {
    return this.#rest.json({ path: "/v1/endpoints", query: { ...page }, signal });
  }
  all(options: Omit<PageOptions, "cursor"> = {}): AsyncGenerator<EndpointInfo> {
    return allPages((cursor) => this.list({ ...options, cursor }));
  }
  get(idOrName: string, { signal }: Signal = {}): Promise<EndpointInfo> {
    return this.#rest.json({ path: `/v1/endpoints/${part(idOrName)}`, signal });
  }
  async delete(idOrName: string, { signal }: Signal = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: `/v1/endpoints/${part(idOrName)}`, signal });
  }
  access(idOrName: string, { signal }: Signal = {}): Promise<EndpointAccess> {
    return this.#rest.json({ path: `/v1/endpoints/${part(idOrName)}/access`, signal });
  }
  /** Sets the one entry of a person or team; one that says nothing goes. */
  share(idOrName: string, entry: AccessEntry, { signal }: Signal = {}): Promise<EndpointAccess> {
    const path = `/v1/endpoints/${part(idOrName)}/access`;
    return this.#rest.json({ method: "PUT", path, json: entry, signal, idempotent: true });
  }
  /** Only these functions run there, whoever submits them; none: all. */
  allowFunctions(
    idOrName: string,
    functions: readonly string[],
    { signal }: Signal = {},
  ): Promise<EndpointAccess> {
    const path = `/v1/endpoints/${part(idOrName)}/functions`;
    return this.#rest.json({ method: "PUT", path, json: { functions }, signal, idempotent: true });
  }
}

/** People who are given access together. */
export interface TeamInfo {
  readonly id: string;
  readonly name: string;
  readonly owner: string;
  readonly createdAt?: string;
  /** Where one team is asked for. */
  readonly members?: readonly { readonly name: string; readonly addedAt: string }[];
}

export class TeamsApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  create(name: string, { signal }: Signal = {}): Promise<TeamInfo> {
    return this.#rest.json({ method: "POST", path: "/v1/teams", json: { name }, signal });
  }
  list({ signal }: Signal = {}): Promise<Page<TeamInfo>> {
    return this.#rest.json({ path: "/v1/teams", signal });
  }
  get(team: string, { signal }: Signal = {}): Promise<TeamInfo> {
    return this.#rest.json({ path: `/v1/teams/${part(team)}`, signal });
  }
  async delete(team: string, { signal }: Signal = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: `/v1/teams/${part(team)}`, signal });
  }
  async add(team: string, person: string, { signal }: Signal = {}): Promise<void> {
    const path = `/v1/teams/${part(team)}/members/${part(person)}`;
    await this.#rest.send({ method: "PUT", path, json: {}, signal, idempotent: true });
  }
  async remove(team: string, person: string, { signal }: Signal = {}): Promise<void> {
    const path = `/v1/teams/${part(team)}/members/${part(person)}`;
    await this.#rest.send({ method: "DELETE", path, signal });
  }
}

export interface TaskFilter {
  readonly state?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly function?: string | undefined;
  readonly group?: string | undefined;
}

export class TasksApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  list({ signal, ...query }: PageOptions & TaskFilter = {}): Promise<Page<TaskInfo>> {
    return this.#rest.json({ path: "/v1/tasks", query: { ...query }, signal });
  }
  all(options: Omit<PageOptions, "cursor"> & TaskFilter = {}): AsyncGenerator<TaskInfo> {
    return allPages((cursor) => this.list({ ...options, cursor }));
  }
  /** With `waitSeconds` the answer comes when the task has ended, or after that time. */
  get(
    id: string,
    { waitSeconds, signal }: Signal & { readonly waitSeconds?: number } = {},
  ): Promise<TaskInfo> {
    return this.#rest.json({
      path: `/v1/tasks/${part(id)}`,
      query: { wait: waitSeconds },
      signal,
      timeoutMs: 60_000 + (waitSeconds ?? 0) * 1000,
    });
  }
  /** The result's bytes as the function gave them, and their media type. */
  async result(
    id: string,
    { signal }: Signal = {},
  ): Promise<{ body: Buffer; contentType: string; seal: Buffer | undefined }> {
    const response = await this.#rest.send({
      path: `/v1/tasks/${part(id)}/result`,
      signal,
      timeoutMs: 600_000,
    });
    const seal = response.headers["farloom-seal"];
    return {
      body: response.body,
      contentType: response.headers["content-type"] ?? "",
      seal: typeof seal === "string" ? Buffer.from(seal, "hex") : undefined,
    };
  }
  /** Bytes that it wrote, from `offset` on; with `waitSeconds` the answer comes when there are some, or after that time. */
  async output(
    id: string,
    options: Signal & {
      readonly stream?: "stdout" | "stderr" | undefined;
      readonly offset?: number | undefined;
      readonly attempt?: number | undefined;
      readonly waitSeconds?: number | undefined;
    } = {},
  ): Promise<OutputPart> {
    const { stream, offset, attempt, waitSeconds, signal } = options;
    const { body, headers } = await this.#rest.send({
      path: `/v1/tasks/${part(id)}/output`,
      query: { stream, offset, attempt, wait: waitSeconds },
      signal,
      timeoutMs: 60_000 + (waitSeconds ?? 0) * 1000,
    });
    return {
      attempt: Number(headers["farloom-attempt"]),
      offset: Number(headers["farloom-offset"]),
      nextOffset: Number(headers["farloom-next-offset"]),
      bytes: body,
      more: headers["farloom-more"] === "true",
      lastAttempt: Number(headers["farloom-last-attempt"]),
    };
  }
  cancel(id: string, { signal }: Signal = {}): Promise<TaskInfo> {
    return this.#rest.json({
      method: "POST",
      path: `/v1/tasks/${part(id)}/cancel`,
      json: {},
      signal,
      idempotent: true,
    });
  }
  /** Many at once: by ids or by group. */
  cancelAll(
    what: { readonly ids?: readonly string[]; readonly group?: string },
    { signal }: Signal = {},
  ): Promise<CancelSummary> {
    return this.#rest.json({
      method: "POST",
      path: "/v1/tasks/cancel",
      json: what,
      signal,
      idempotent: true,
    });
  }
}

export class KeysApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  create(key: KeySpec, { signal }: Signal = {}): Promise<NewKey> {
    return this.#rest.json({ method: "POST", path: "/v1/keys", json: key, signal });
  }
  list({ signal, ...page }: PageOptions = {}): Promise<Page<KeyInfo>> {
    return this.#rest.json({ path: "/v1/keys", query: { ...page }, signal });
  }
  async revoke(id: string, { signal }: Signal = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: `/v1/keys/${part(id)}`, signal });
  }
}

export class AuditApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  /** In the order of the chain, or from its end. `whole` says that nothing is left out, so that it can be recomputed. */
  list({
    signal,
    ...query
  }: PageOptions & { readonly order?: "asc" | "desc" } = {}): Promise<
    Page<AuditEntry> & { readonly whole: boolean }
  > {
    return this.#rest.json({ path: "/v1/audit", query: { ...query }, signal });
  }
}

async function* allPages<T>(page: (cursor: string | undefined) => Promise<Page<T>>): AsyncGenerator<T> {
  let cursor: string | undefined;
  do {
    const { items, nextCursor } = await page(cursor);
    yield* items;
    cursor = nextCursor ?? undefined;
  } while (cursor !== undefined);
}
