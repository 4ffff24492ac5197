/**
 * Hints between replicas: "there is something for you in PostgreSQL". A hint may be lost, doubled or late; it
 * only makes things quick. The sweep is the truth.
 *
 * Beside them one replica asks another what an endpoint's agent leases, which only its owner knows. That may be lost
 * too: whoever asked hears nothing then, and their agent asks again (dispatch/leased-now.ts).
 *
 * They go by Redis pub/sub where there is Redis, else by LISTEN/NOTIFY, and only while other replicas are alive: a
 * NOTIFY takes a lock that every commit of the database shares.
 */
import type { IdKey } from "@farloom/protocol";
import { isUuid, keyToUuid, uuidToKey } from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";

/** Other replicas commit tasks and outcomes; what they say arrives here. */
export interface HintHandlers {
  /** Tasks for this endpoint were committed, none with a smaller seq. */
  onTasks(endpointKey: IdKey, firstSeq: number): void;
  /** These tasks of the endpoint became runnable. */
  onRunnable(endpointKey: IdKey, keys: IdKey[]): void;
  /** These tasks have outcomes. */
  onFinished(keys: IdKey[]): void;
  /** Somebody asked to cancel these tasks of the endpoint; with `unbegun`, only what has not begun. */
  onCancel(endpointKey: IdKey, keys: IdKey[], why: "unbegun" | undefined): void;
  /** A connection of the endpoint was accepted elsewhere, under this epoch. */
  onClaimed(endpointKey: IdKey, epoch: number): void;
  /** Who may do what has changed. */
  onAccess(): void;
  /** Somebody there follows the output of these tasks. */
  onFollow(keys: IdKey[]): void;
  /** There is more output of these tasks. */
  onOutput(keys: IdKey[]): void;
  /** That replica asks what the endpoint's agent leases. */
  onAsk(from: string, n: number, endpointKey: IdKey, asked: LeaseQuestion): void;
  /** What another one says to the question of that number. */
  onAnswer(n: number, answer: LeaseAnswer): void;
}

/** A task in one attempt; or any task whose arguments are this file. */
export type LeaseQuestion = { readonly task: IdKey; readonly attempt: number } | { readonly digest: Buffer };

/** The task in question, "none" where the agent has it not; undefined where that is not known. */
export type LeaseAnswer = IdKey | "none" | undefined;

export interface Hints {
  tasks(endpointKey: IdKey, firstSeq: number): void;
  runnable(endpointKey: IdKey, keys: readonly IdKey[]): void;
  finished(keys: readonly IdKey[]): void;
  cancel(endpointKey: IdKey, keys: readonly IdKey[], why?: "unbegun"): void;
  claimed(endpointKey: IdKey, epoch: number): void;
  access(): void;
  follow(keys: readonly IdKey[]): void;
  output(keys: readonly IdKey[]): void;
}

export type HintMessage =
  | { readonly from: string; readonly kind: "tasks"; readonly endpoint: string; readonly firstSeq: number }
  | { readonly from: string; readonly kind: "runnable"; readonly endpoint: string; readonly ids: string }
  | { readonly from: string; readonly kind: "finished"; readonly ids: string }
  | {
      readonly from: string;
      readonly kind: "cancel";
      readonly endpoint: string;
      readonly ids: string;
      readonly why?: "unbegun" | undefined;
    }
  | { readonly from: string; readonly kind: "claimed"; readonly endpoint: string; readonly epoch: number }
  | { readonly from: string; readonly kind: "follow" | "output"; readonly ids: string }
  | { readonly from: string; readonly kind: "access" }
  | {
      readonly from: string;
      readonly kind: "ask";
      readonly to: string;
      readonly n: number;
      readonly endpoint: string;
      readonly task?: string;
      readonly attempt?: number;
      readonly digest?: string;
    }
  | {
      readonly from: string;
      readonly kind: "answer";
      readonly to: string;
      readonly n: number;
      /** A task's id, or "none". */
      readonly lease?: string | undefined;
    };

/** PostgreSQL's NOTIFY takes 8,000 bytes: 300 ids in base64, and room. */
export const IDS_IN_A_HINT = 300;

/** Ids as base64 text, in as many pieces as hints need. */
export function idPieces(keys: readonly IdKey[]): string[] {
  const pieces: string[] = [];
  for (let at = 0; at < keys.length; at += IDS_IN_A_HINT) {
    pieces.push(Buffer.from(keys.slice(at, at + IDS_IN_A_HINT).join(""), "latin1").toString("base64"));
  }
  return pieces;
}

/** Hands a message of another replica to the handlers; what is malformed is ignored, as if it had been lost. */
export function receiveHint(text: string, self: string, handlers: HintHandlers): void {
  let message: HintMessage;
  try {
    message = JSON.parse(text) as HintMessage;
  } catch {
    return;
  }
  if (message.from === self) return;
  const ids = "ids" in message && typeof message.ids === "string" ? idsOf(message.ids) : [];
  const endpointKey =
    "endpoint" in message && isUuid(message.endpoint) ? uuidToKey(message.endpoint) : undefined;
  if (message.kind === "access") handlers.onAccess();
  else if (message.kind === "finished") handlers.onFinished(ids);
  else if (message.kind === "follow") handlers.onFollow(ids);
  else if (message.kind === "output") handlers.onOutput(ids);
  else if (message.kind === "tasks" && endpointKey)
    handlers.onTasks(endpointKey, Number(message.firstSeq) || 0);
  else if (message.kind === "runnable" && endpointKey) handlers.onRunnable(endpointKey, ids);
  else if (message.kind === "cancel" && endpointKey)
    handlers.onCancel(endpointKey, ids, message.why === "unbegun" ? "unbegun" : undefined);
  else if (message.kind === "claimed" && endpointKey)
    handlers.onClaimed(endpointKey, Number(message.epoch) || 0);
  else if (message.kind === "ask" && message.to === self && endpointKey) {
    const asked = questionOf(message);
    if (asked) handlers.onAsk(message.from, Number(message.n), endpointKey, asked);
  } else if (message.kind === "answer" && message.to === self)
    handlers.onAnswer(Number(message.n), answerOf(message.lease));
}

function questionOf({ task, attempt, digest }: HintMessage & { kind: "ask" }): LeaseQuestion | undefined {
  if (typeof digest === "string" && /^[0-9a-f]{64}$/.test(digest))
    return { digest: Buffer.from(digest, "hex") };
  return typeof task === "string" && isUuid(task)
    ? { task: uuidToKey(task)!, attempt: Number(attempt) }
    : undefined;
}

function answerOf(lease: unknown): LeaseAnswer {
  if (lease === "none") return lease;
  return typeof lease === "string" && isUuid(lease) ? uuidToKey(lease) : undefined;
}

function idsOf(text: string): IdKey[] {
  const bytes = Buffer.from(text, "base64");
  const keys: IdKey[] = [];
  for (let at = 0; at + 16 <= bytes.length; at += 16) keys.push(bytes.toString("latin1", at, at + 16));
  return keys;
}

/** Turns what happened here into messages, and gives them to `publish`. */
export class HintSender implements Hints {
  readonly #self: string;
  readonly #publish: (message: string) => void;
  /** Whether anybody would listen. */
  alone = true;

  constructor(self: string, publish: (message: string) => void) {
    this.#self = self;
    this.#publish = publish;
  }

  tasks(endpointKey: IdKey, firstSeq: number): void {
    this.#send({ from: this.#self, kind: "tasks", endpoint: keyToUuid(endpointKey), firstSeq });
  }

  runnable(endpointKey: IdKey, keys: readonly IdKey[]): void {
    for (const ids of idPieces(keys)) {
      this.#send({ from: this.#self, kind: "runnable", endpoint: keyToUuid(endpointKey), ids });
    }
  }

  finished(keys: readonly IdKey[]): void {
    if (this.alone) return;
    for (const ids of idPieces(keys)) this.#send({ from: this.#self, kind: "finished", ids });
  }

  cancel(endpointKey: IdKey, keys: readonly IdKey[], why?: "unbegun"): void {
    for (const ids of idPieces(keys)) {
      this.#send({ from: this.#self, kind: "cancel", endpoint: keyToUuid(endpointKey), ids, why });
    }
  }

  claimed(endpointKey: IdKey, epoch: number): void {
    this.#send({ from: this.#self, kind: "claimed", endpoint: keyToUuid(endpointKey), epoch });
  }

  access(): void {
    this.#send({ from: this.#self, kind: "access" });
  }

  follow(keys: readonly IdKey[]): void {
    for (const ids of idPieces(keys)) this.#send({ from: this.#self, kind: "follow", ids });
  }

  output(keys: readonly IdKey[]): void {
    for (const ids of idPieces(keys)) this.#send({ from: this.#self, kind: "output", ids });
  }

  /** Asks that replica what the endpoint's agent leases; false where nobody would hear it. */
  ask(to: string, n: number, endpointKey: IdKey, asked: LeaseQuestion): boolean {
    const endpoint = keyToUuid(endpointKey);
    const what =
      "task" in asked
        ? { task: keyToUuid(asked.task), attempt: asked.attempt }
        : { digest: asked.digest.toString("hex") };
    this.#send({ from: this.#self, kind: "ask", to, n, endpoint, ...what });
    return !this.alone;
  }

  answer(to: string, n: number, answer: LeaseAnswer): void {
    const lease = answer === undefined || answer === "none" ? answer : keyToUuid(answer);
    this.#send({ from: this.#self, kind: "answer", to, n, lease });
  }

  #send(message: HintMessage): void {
    if (this.alone || planted("notify-is-truth")) return;
    crashPoint("service.hint.before-send");
    this.#publish(JSON.stringify(message));
  }
}
