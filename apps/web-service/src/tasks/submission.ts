/**
 * From a REST body to tasks: names are resolved, arguments become bytes, and everything for one endpoint goes to
 * intake together.
 *
 *   1. Everything is checked before anything is submitted.
 *   2. Under an Idempotency-Key the ids are on record before the first submit, so that a retry after a crash
 *      anywhere in between submits the same tasks under the same ids.
 *   3. Task i of the body is id i of the reply.
 */
import { createHash } from "node:crypto";
import {
  CODEC_REFERENCE,
  CODECS,
  type CodecName,
  checkTaskOptions,
  encodeReference,
  encodeValue,
  FarloomError,
  type IdKey,
  keyAt,
  limits,
  newBatchId,
  type TaskOptions,
  writeTaskId,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { EndpointGrant, EndpointRegistry } from "../endpoints/registry.js";
import { checkArguments } from "../functions/arguments-schema.js";
import type { FunctionRecord, FunctionRegistry } from "../functions/registry.js";
import { authorise } from "../identity/authorise.js";
import { requireNesting } from "../identity/nested.js";
import type { Principal } from "../identity/principal.js";
import type { PayloadStore } from "../payloads/store.js";
import { type SecretUse, wantsSecrets } from "../secrets/use.js";
import type { TaskGroups } from "./groups.js";
import type { Idempotency } from "./idempotency.js";
import type { SubmitItem, TaskIntake } from "./ports.js";
import type { TaskReader } from "./reader.js";

/** Tasks in one request. */
export const MAX_TASKS_PER_REQUEST = 10_000;

/** One call as a body has it. */
export interface CallBody {
  args?: unknown[];
  kwargs?: Record<string, unknown>;
  payload?: { digest: string; size?: number; codec: CodecName };
  options?: TaskOptions;
}

/** A call with where it goes. */
export interface TaskBody extends CallBody {
  function: string;
  endpoint: string;
}

export interface SubmissionRequest {
  readonly tasks: readonly TaskBody[];
  readonly group: string | undefined;
  /** The body was MessagePack, so arguments may hold what JSON cannot say. */
  readonly msgpack: boolean;
  readonly idempotency: { readonly key: string; readonly bodyDigest: Buffer } | undefined;
}

export interface Submitted {
  readonly groupId: string;
  readonly keys: IdKey[];
  /** The endpoint of each task, where it is known without a look. */
  readonly endpointKeys: IdKey[] | undefined;
}

interface Deps {
  readonly functions: FunctionRegistry;
  readonly endpoints: EndpointRegistry;
  readonly payloads: PayloadStore;
  readonly secretUse: SecretUse;
  readonly intake: TaskIntake;
  readonly groups: TaskGroups;
  readonly idempotency: Idempotency;
  readonly reader: TaskReader;
}

/** Tasks of one endpoint, with their places in the body. */
interface Batch {
  readonly endpoint: EndpointGrant;
  items: SubmitItem[];
  readonly places: number[];
}

export class Submission {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** Resolves once all tasks are committed. @throws FarloomError */
  async submit(principal: Principal, request: SubmissionRequest): Promise<Submitted> {
    const { groups, idempotency, intake, reader } = this.#deps;
    const { ownerId } = principal;
    if (planted("idempotency-ignored")) request = { ...request, idempotency: undefined };
    const known = request.idempotency && (await idempotency.find(ownerId, request.idempotency));
    // A submission to several endpoints has several batches and is never found whole here: it is submitted again, which
    // changes nothing about tasks that are there.
    if (known && (await isCommitted(reader, ownerId, known.baseId, known.taskCount))) {
      return {
        groupId: known.groupId,
        keys: batchKeys(known.baseId, known.taskCount),
        endpointKeys: undefined,
      };
    }

    const batches = await this.#prepare(principal, request);
    let groupId =
      known?.groupId ?? (await groups.forSubmission(ownerId, request.group, request.tasks.length));
    let baseId = known?.baseId ?? newBatchId();
    if (request.idempotency && !known) {
      const record = { baseId, groupId, taskCount: request.tasks.length };
      ({ baseId, groupId } = await idempotency.record(ownerId, request.idempotency, record)); // 2
      crashPoint("service.idempotency.recorded");
    }

    const keys = new Array<IdKey>(request.tasks.length);
    const endpointKeys = new Array<IdKey>(request.tasks.length);
    const groupKey = groups.keyOf(groupId);
    await Promise.all(
      batches.map(async ({ endpoint, items, places }, n) => {
        const ids = await intake.submit(principal, endpoint, groupKey, items, nthBatchId(baseId, n));
        for (let i = 0; i < places.length; i++) {
          keys[places[i]!] = ids[i]!; // 3
          endpointKeys[places[i]!] = endpoint.key;
        }
      }),
    );
    return { groupId, keys, endpointKeys };
  }

  async #prepare(principal: Principal, request: SubmissionRequest): Promise<Batch[]> {
    const { functions, endpoints, secretUse } = this.#deps;
    const fns = new Map<string, FunctionRecord>();
    const batches = new Map<string, Batch>();
    for (let i = 0; i < request.tasks.length; i++) {
      const task = request.tasks[i]!;
      let fn = fns.get(task.function);
      if (!fn) {
        fn = await functions.resolve(principal, task.function);
        fns.set(task.function, fn);
      }
      let batch = batches.get(task.endpoint);
      if (!batch) {
        batch = { endpoint: await endpoints.resolve(principal, task.endpoint), items: [], places: [] };
        batches.set(task.endpoint, batch);
      }
      authorise(principal, "tasks:submit", { endpoint: batch.endpoint, fn });
      if (!endpoints.suits(batch.endpoint.key, fn)) await endpoints.requireSuiting(batch.endpoint, [fn]);
      const { args, codec } = await this.#encode(principal.ownerId, fn, task, request.msgpack);
      const options = task.options;
      if (options !== undefined) {
        const bad = checkTaskOptions(options);
        if (bad !== undefined) throw new FarloomError("OPTIONS_INVALID", { detail: bad });
        requireNesting(principal, options);
      }
      batch.items.push(
        options === undefined || isEmpty(options) ? { fn, args, codec } : { fn, args, codec, options },
      );
      batch.places.push(i);
    }
    for (const batch of batches.values()) {
      if (!batch.items.some(({ fn }) => wantsSecrets(fn))) continue;
      const agreed = await secretUse.agree(principal, batch.endpoint, batch.items);
      batch.items = batch.items.map((item, i) => withOptions(item, agreed[i]));
    }
    return [...batches.values()];
  }

  /** The call's arguments as bytes: JSON where JSON can say them, MessagePack otherwise, a reference where they are large. */
  async #encode(
    ownerId: string,
    fn: FunctionRecord,
    call: CallBody,
    msgpack: boolean,
  ): Promise<{ args: Buffer; codec: number }> {
    const { payloads } = this.#deps;
    if (call.payload !== undefined) return this.#reference(ownerId, call);
    const args = call.args ?? [];
    const kwargs = call.kwargs ?? {};
    checkArguments(fn, args, kwargs);
    const json = !msgpack || (isJson(args) && isJson(kwargs));
    const codec = json ? CODECS.json : CODECS.msgpack;
    const bytes = json ? Buffer.from(JSON.stringify([args, kwargs])) : encodeValue([args, kwargs]);
    if (bytes.length <= limits.MAX_INLINE_BYTES) return { args: bytes, codec };
    const ref = await payloads.putBytes(ownerId, bytes);
    return { args: encodeReference(ref.digest, ref.sizeBytes), codec: codec | CODEC_REFERENCE };
  }

  async #reference(ownerId: string, call: CallBody): Promise<{ args: Buffer; codec: number }> {
    const { digest: hex, size, codec } = call.payload!;
    if (call.args !== undefined || call.kwargs !== undefined) {
      throw new FarloomError("ARGUMENTS_INVALID", {
        detail: "a call has either args and kwargs or a payload, not both",
      });
    }
    const digest = Buffer.from(hex, "hex");
    const sizeBytes = await this.#deps.payloads.touch(ownerId, digest);
    if (sizeBytes === undefined) throw new FarloomError("PAYLOAD_NOT_FOUND", { digest: hex });
    if (size !== undefined && size !== sizeBytes) {
      throw new FarloomError("ARGUMENTS_INVALID", {
        detail: `payload ${hex} has ${sizeBytes} bytes, not ${size}`,
      });
    }
    return { args: encodeReference(digest, sizeBytes), codec: CODECS[codec] | CODEC_REFERENCE };
  }
}

/** The n-th batch of a submission to several endpoints: derived, so that a retry derives the same. */
function nthBatchId(baseId: Buffer, n: number): Buffer {
  if (n === 0) return baseId;
  const random = createHash("sha256").update(baseId).update(String(n)).digest().subarray(0, 10);
  return newBatchId(baseId.readUIntBE(0, 6), random);
}

function batchKeys(baseId: Buffer, n: number): IdKey[] {
  const id = Buffer.allocUnsafe(16);
  return Array.from({ length: n }, (_, i) => {
    writeTaskId(id, baseId, i, 0);
    return keyAt(id);
  });
}

async function isCommitted(reader: TaskReader, ownerId: string, baseId: Buffer, n: number): Promise<boolean> {
  const keys = batchKeys(baseId, n);
  return (await reader.countRange(ownerId, keys[0]!, keys.at(-1)!)) === n;
}

function withOptions(item: SubmitItem, options: TaskOptions | undefined): SubmitItem {
  return options === undefined ? item : { ...item, options };
}

function isEmpty(options: TaskOptions): boolean {
  for (const _ in options) return false;
  return true;
}

/** Whether JSON can say this decoded MessagePack value: no bytes, no NaN, no Infinity, no undefined. */
function isJson(value: unknown): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null)
    return typeof value !== "undefined" && typeof value !== "bigint";
  if (Array.isArray(value)) return value.every(isJson);
  return Object.getPrototypeOf(value) === Object.prototype && Object.values(value).every(isJson);
}
