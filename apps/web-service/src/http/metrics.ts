/** Prometheus metrics: one registry that every part of the service may add to, and what HTTP itself counts. */
import type { FastifyInstance } from "fastify";
import { collectDefaultMetrics, Histogram, Registry } from "prom-client";

export class Metrics {
  readonly registry = new Registry();
  readonly #http: Histogram<"method" | "route" | "status">;

  constructor() {
    collectDefaultMetrics({ register: this.registry });
    this.#http = new Histogram({
      name: "farloom_http_request_seconds",
      help: "Time from the request's headers to the end of the reply; long polls include their wait.",
      labelNames: ["method", "route", "status"],
      buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 300],
      registers: [this.registry],
    });
  }

  /** Counts every reply by its route's pattern, never by its path: labels stay few. */
  observe(app: FastifyInstance): void {
    app.addHook("onResponse", async (request, reply) => {
      const route = request.routeOptions.url ?? "(none)";
      this.#http.observe(
        { method: request.method, route, status: reply.statusCode },
        reply.elapsedTime / 1000,
      );
    });
  }
}
