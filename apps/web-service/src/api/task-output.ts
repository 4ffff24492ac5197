/**
 * What a task writes, while it runs and afterwards: bytes as they are, from any byte on. With `wait` a request ends as
 * soon as there is more; with `follow` its body goes on until the task has ended.
 */
import { Readable } from "node:stream";
import { FarloomError, uuidToKey } from "@farloom/protocol";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { authorizationOf } from "../http/browser.js";
import { sentRaw } from "../http/media-types.js";
import { principalOf } from "../http/policy.js";
import { type OutputPart, type OutputPlace, outputOf } from "../tasks/output.js";
import type { TaskRow } from "../tasks/reader.js";
import { MAX_WAIT_S } from "../tasks/waiting.js";
import { problems, Strict } from "./schemas.js";
import { Id } from "./task-schemas.js";

/** Requests that wait for output at once; one more is answered with what there is. */
const MAX_FOLLOWERS = 5_000;
/** A follower looks by itself after this: news of another replica may be lost, and that an attempt is over is none. */
const LOOK_MS = 2_000;

const Place = Strict({
  stream: Type.Unsafe<"stdout" | "stderr">({
    type: "string",
    enum: ["stdout", "stderr"],
    default: "stdout",
  }),
  offset: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, default: 0 }),
  attempt: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 0x7fff_ffff, description: "Default: the last" }),
  ),
  wait: Type.Number({
    minimum: 0,
    maximum: MAX_WAIT_S,
    default: 0,
    description: "Seconds to wait for bytes from this offset on, or for the end",
  }),
  follow: Type.Boolean({ default: false, description: "The body goes on until the task has ended" }),
});

/** `read` gives the one task whole, or throws why there is none. */
export function taskOutputRoutes(
  app: Api,
  deps: AppDeps,
  read: (request: FastifyRequest, reply: FastifyReply, id: string) => Promise<TaskRow>,
): void {
  const { tenants, outputNews, deliver, identity, config } = deps;
  let followers = 0;

  /** A body that goes on holds no longer than the credential that it was asked for with (P30). */
  const requireStill = async ({ headers }: FastifyRequest): Promise<void> => {
    const { nested } = await identity.authenticate(authorizationOf(headers, config.publicUrl));
    if (nested !== undefined) await identity.nested.requireOpen(nested);
  };

  app.get(
    "/v1/tasks/:id/output",
    {
      config: { policy: { scope: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags: ["tasks"],
        summary: "What the task has written, live: bytes of one stream, from an offset on",
        description:
          "The headers say which bytes these are: farloom-attempt, farloom-offset (where the body begins: later than asked where what lay between was not kept), farloom-next-offset, farloom-more (false: this attempt has no more), farloom-last-attempt.",
        params: Id,
        querystring: Place,
        response: { 200: sentRaw("text/plain"), ...problems },
      },
      exposeHeadRoute: false,
    },
    async (request, reply) => {
      const { id } = request.params;
      const { wait, follow, ...asked } = request.query;
      const place: OutputPlace = { attempt: undefined, ...asked };
      const row = await read(request, reply, id);
      const part = await outputOf(tenants, { ownerId: principalOf(request).ownerId, row }, place);
      reply.type("text/plain; charset=utf-8").header("cache-control", "no-store");
      if ((wait === 0 && !follow) || followers >= MAX_FOLLOWERS) return send(reply, part);
      const stop = new AbortController();
      const onClose = (): void => stop.abort();
      reply.raw.once("close", onClose);
      followers++;
      const over = (): void => {
        followers--;
        reply.raw.off("close", onClose);
      };
      const next = (where: OutputPlace, untilMs: number): Promise<OutputPart> =>
        more({ request, reply, id, place: where, untilMs, signal: stop.signal });
      if (follow) {
        // The generator's end is the end of the body, however that comes.
        return reply.send(Readable.from(following(part, place, next, over, stop.signal)));
      }
      try {
        const isNews = part.data.length > 0 || !part.more;
        return send(reply, isNews ? part : await next(place, performance.now() + wait * 1000));
      } finally {
        over();
      }
    },
  );

  interface Follow {
    readonly request: FastifyRequest;
    readonly reply: FastifyReply;
    readonly id: string;
    readonly place: OutputPlace;
    readonly untilMs: number;
    readonly signal: AbortSignal;
  }

  /** The next bytes, or the attempt's end, or nothing where the time is up or nobody listens. */
  async function more({ request, reply, id, place, untilMs, signal }: Follow): Promise<OutputPart> {
    const key = uuidToKey(id)!;
    for (;;) {
      const look = new AbortController();
      const both = AbortSignal.any([signal, look.signal]);
      const news = outputNews.next(key, both);
      try {
        await requireStill(request);
        const task = { ownerId: principalOf(request).ownerId, row: await read(request, reply, id) };
        const part = await outputOf(tenants, task, place);
        const leftMs = untilMs - performance.now();
        const isOver = leftMs <= 0 || signal.aborted || deps.draining();
        if (part.data.length > 0 || !part.more || isOver) return part;
        const timeoutMs = Math.min(leftMs, LOOK_MS);
        await Promise.race([news, deliver.waitFor([key], timeoutMs, both)]);
      } finally {
        look.abort();
      }
    }
  }
}

/** The bytes of all attempts from this one on, as they come. */
async function* following(
  first: OutputPart,
  place: OutputPlace,
  next: (place: OutputPlace, untilMs: number) => Promise<OutputPart>,
  over: () => void,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  try {
    let part = first;
    while (!signal.aborted) {
      if (part.data.length > 0) yield part.data;
      const isNextAttempt = !part.more && part.lastAttempt > part.attempt;
      if (!part.more && !isNextAttempt) return;
      const where = isNextAttempt
        ? { ...place, attempt: part.attempt + 1, offset: 0 }
        : { ...place, attempt: part.attempt, offset: part.at + part.data.length };
      try {
        part = await next(where, Number.POSITIVE_INFINITY);
      } catch (error) {
        // The credential has ended, or the task is gone: whoever asks again is told.
        if (error instanceof FarloomError) return;
        throw error;
      }
      // Nothing, and more may come: the service is stopping, and whoever follows asks again.
      if (part.data.length === 0 && part.more) return;
    }
  } finally {
    over();
  }
}

function send(reply: FastifyReply, part: OutputPart): FastifyReply {
  return reply
    .headers({
      "farloom-attempt": part.attempt,
      "farloom-offset": part.at,
      "farloom-next-offset": part.at + part.data.length,
      "farloom-more": String(part.more),
      "farloom-last-attempt": part.lastAttempt,
    })
    .send(part.data);
}
