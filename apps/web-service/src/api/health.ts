/** Health and metrics: what an orchestrator and Prometheus ask. */
import { FarloomError } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { sentRaw } from "../http/media-types.js";
import { problems } from "./schemas.js";

const Ok = Type.Object({ status: Type.Literal("ok") });
const tags = ["operation"];

export function healthRoutes(app: Api, { ready, metrics }: AppDeps): void {
  app.get(
    "/health/live",
    {
      config: { policy: { public: true } },
      schema: { tags, summary: "The process answers", response: { 200: Ok, ...problems } },
    },
    () => ({ status: "ok" as const }),
  );

  app.get(
    "/health/ready",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "The service takes work: the database answers and it is not stopping",
        response: { 200: Ok, ...problems },
      },
    },
    async () => {
      if (!(await ready())) throw new FarloomError("NOT_READY", {}, { retryAfterMs: 1_000 });
      return { status: "ok" as const };
    },
  );

  app.get(
    "/metrics",
    {
      config: { policy: { scope: "metrics:read" } },
      schema: { tags, summary: "Prometheus metrics", response: { 200: sentRaw("text/plain"), ...problems } },
    },
    async (_request, reply) => {
      const text = await metrics.registry.metrics();
      return reply.type(metrics.registry.contentType).send(text);
    },
  );
}
