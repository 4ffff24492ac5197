/** Webhooks: where somebody wants to be told of what has ended. One scope for all of it, as URLs may hold secrets. */
import { FarloomError } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import type { Principal } from "../identity/principal.js";
import { type DeliveryRow, EVENTS, MAX_SHOWN, type WebhookEvent, type WebhookRow } from "../webhooks/rows.js";
import { MAX_URL_CHARS } from "../webhooks/target.js";
import type { Webhooks } from "../webhooks/webhooks.js";
import { problems, Strict, Time, Uuid } from "./schemas.js";

const tags = ["webhooks"];
const scope = "webhooks:write" as const;
const Id = Type.Object({ id: Uuid });
const EventName = Type.Unsafe<WebhookEvent>({ type: "string", enum: [...EVENTS] });

const FIELDS = {
  url: Type.String({
    minLength: 1,
    maxLength: MAX_URL_CHARS,
    description: "https, without user, password or fragment",
  }),
  events: Type.Array(EventName, { minItems: 1, maxItems: EVENTS.length }),
  name: Type.String({ maxLength: 100 }),
  onlyFailed: Type.Boolean({
    description: "Only what did not succeed; of groups, those in which something did not",
  }),
  endpoint: Type.Union([Type.String({ minLength: 1, maxLength: 200 }), Type.Null()], {
    description: "Id or name: only what ran there",
  }),
  enabled: Type.Boolean(),
};
const { url, events, ...others } = FIELDS;
const Changes = Type.Partial(Strict(FIELDS));

const WebhookView = Type.Object({
  id: Type.String(),
  url: Type.String(),
  events: Type.Array(Type.String()),
  name: Type.String(),
  onlyFailed: Type.Boolean(),
  endpoint: Type.Optional(Type.String()),
  enabled: Type.Boolean(),
  disabledReason: Type.Optional(Type.String({ description: "Why the service disabled it" })),
  createdAt: Time,
  failingSince: Type.Optional(Type.String({ description: "Since when every try has failed" })),
  dropped: Type.Integer({ description: "Events that were not kept, as 100,000 waited already" }),
});
const WithSecret = Type.Intersect([
  WebhookView,
  Type.Object({ secret: Type.String({ description: "whsec_…, shown here and nowhere else" }) }),
]);
const DeliveryView = Type.Object({
  id: Type.String({ description: "The webhook-id that the receiver got" }),
  event: Type.String(),
  subject: Type.String({ description: "The task or the group" }),
  state: Type.Unsafe<string>({ type: "string", enum: ["waiting", "delivered", "failed"] }),
  attempts: Type.Integer(),
  createdAt: Time,
  nextAt: Type.Optional(Time),
  endedAt: Type.Optional(Time),
  status: Type.Optional(Type.Integer({ description: "HTTP status of the last try" })),
  ms: Type.Optional(Type.Integer({ description: "How long the last try took" })),
  error: Type.Optional(
    Type.String({ description: "What went wrong at the last try; docs/webhooks.md has the list" }),
  ),
});

export function webhookRoutes(app: Api, { webhooks, endpoints }: AppDeps): void {
  /** @throws FarloomError WEBHOOKS_OFF */
  const on = (): Webhooks => {
    if (webhooks === undefined) throw new FarloomError("WEBHOOKS_OFF");
    return webhooks;
  };
  const endpointIdOf = async (
    principal: Principal,
    ref: string | null | undefined,
  ): Promise<string | null> => (ref == null ? null : (await endpoints.resolve(principal, ref)).id);

  app.post(
    "/v1/webhooks",
    {
      config: { policy: { scope }, audit: "webhooks.create" },
      schema: {
        tags,
        summary: "Register a webhook; its secret is in this reply and nowhere else",
        body: Type.Intersect([Type.Object({ url, events }), Type.Partial(Type.Object(others))], {
          unevaluatedProperties: false,
        }),
        response: { 201: WithSecret, ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const { body } = request;
      const { row, secret } = await on().create(principal.ownerId, {
        name: "",
        onlyFailed: false,
        enabled: true,
        ...body,
        events: [...new Set(body.events)],
        endpointId: await endpointIdOf(principal, body.endpoint),
      });
      request.audited = { target: row.id, detail: audited(row) };
      return reply.code(201).send({ ...view(row), secret });
    },
  );

  app.get(
    "/v1/webhooks",
    {
      config: { policy: { scope } },
      schema: {
        tags,
        summary: "List your webhooks, the newest first",
        response: { 200: Type.Object({ items: Type.Array(WebhookView) }), ...problems },
      },
    },
    async (request) => ({ items: (await on().rows.list(principalOf(request).ownerId)).map(view) }),
  );

  app.get(
    "/v1/webhooks/:id",
    {
      config: { policy: { scope } },
      schema: { tags, summary: "Show a webhook", params: Id, response: { 200: WebhookView, ...problems } },
    },
    async (request) => view(await on().rows.get(principalOf(request).ownerId, request.params.id)),
  );

  app.patch(
    "/v1/webhooks/:id",
    {
      config: { policy: { scope }, audit: "webhooks.change" },
      schema: {
        tags,
        summary: "Change a webhook; heard everywhere within 5 s",
        params: Id,
        body: Changes,
        response: { 200: WebhookView, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { endpoint, ...fields } = request.body;
      const row = await on().change(principal.ownerId, request.params.id, {
        ...fields,
        ...(endpoint === undefined ? {} : { endpointId: await endpointIdOf(principal, endpoint) }),
      });
      request.audited = { target: row.id, detail: audited(row) };
      return view(row);
    },
  );

  app.delete(
    "/v1/webhooks/:id",
    {
      config: { policy: { scope }, audit: "webhooks.delete" },
      schema: {
        tags,
        summary: "Delete a webhook and what waits for it",
        params: Id,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      await on().remove(principalOf(request).ownerId, request.params.id);
      return reply.code(204).send(null);
    },
  );

  app.post(
    "/v1/webhooks/:id/rotate",
    {
      config: { policy: { scope }, audit: "webhooks.rotate" },
      schema: {
        tags,
        summary: "Give it another secret; the one before signs beside it for 24 hours",
        params: Id,
        response: { 200: WithSecret, ...problems },
      },
    },
    async (request) => {
      const { row, secret } = await on().rotate(principalOf(request).ownerId, request.params.id);
      return { ...view(row), secret };
    },
  );

  app.post(
    "/v1/webhooks/:id/test",
    {
      config: { policy: { scope }, audit: "webhooks.test" },
      schema: {
        tags,
        summary: "Send a ping, once, and say what came of it; ten a minute",
        params: Id,
        response: { 200: DeliveryView, ...problems },
      },
    },
    async (request) => deliveryView(await on().test(principalOf(request).ownerId, request.params.id)),
  );

  app.get(
    "/v1/webhooks/:id/deliveries",
    {
      config: { policy: { scope } },
      schema: {
        tags,
        summary: "What became of its deliveries, the newest first",
        params: Id,
        querystring: Strict({ limit: Type.Integer({ minimum: 1, maximum: MAX_SHOWN, default: 50 }) }),
        response: { 200: Type.Object({ items: Type.Array(DeliveryView) }), ...problems },
      },
    },
    async (request) => {
      const { ownerId } = principalOf(request);
      const { rows } = on();
      const { id } = await rows.get(ownerId, request.params.id);
      return {
        items: (await rows.deliveries(ownerId, id, { limit: request.query.limit })).map(deliveryView),
      };
    },
  );
}

/** The path of a URL may be a secret: the log keeps the host alone. */
function audited({ url: whole, events: told, enabled }: WebhookRow): Record<string, unknown> {
  return { host: new URL(whole).host, events: told, enabled };
}

function view(row: WebhookRow) {
  const {
    id,
    url: whole,
    name,
    onlyFailed,
    endpointId,
    enabled,
    disabledReason,
    createdAt,
    failingSince,
    dropped,
  } = row;
  return {
    id,
    url: whole,
    events: [...row.events],
    name,
    onlyFailed,
    ...(endpointId === null ? {} : { endpoint: endpointId }),
    enabled,
    ...(disabledReason === "" ? {} : { disabledReason }),
    createdAt: createdAt.toISOString(),
    ...(failingSince === null ? {} : { failingSince: failingSince.toISOString() }),
    dropped,
  };
}

const DELIVERY_STATES = ["waiting", "delivered", "failed"] as const;

function deliveryView(row: DeliveryRow) {
  return {
    id: row.id,
    event: row.event,
    subject: row.subjectId,
    state: DELIVERY_STATES[row.state]!,
    attempts: row.attempts,
    createdAt: row.createdAt.toISOString(),
    ...(row.state === 0 ? { nextAt: row.nextAt.toISOString() } : {}),
    ...(row.endedAt === null ? {} : { endedAt: row.endedAt.toISOString() }),
    ...(row.lastStatus === null ? {} : { status: row.lastStatus }),
    ...(row.lastMs === null ? {} : { ms: row.lastMs }),
    ...(row.lastError === "" ? {} : { error: row.lastError }),
  };
}
