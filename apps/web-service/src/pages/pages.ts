/** The pages of the service, in a scope of their own: they alone take forms, and their errors are pages too. */
import { FarloomError } from "@farloom/protocol";
import type { FastifyError } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { acceptForms } from "../http/forms.js";
import { sentRaw } from "../http/media-types.js";
import { devicePage } from "./device-page.js";
import { html, sendPage } from "./html.js";
import { loginPages } from "./login-pages.js";

/** A page, or the way to another; of errors those that come before a page are told as everywhere. */
const refused = sentRaw("text/html", "application/problem+json");
const PAGE_REPLIES = { 200: sentRaw("text/html"), 303: Type.Null(), "4xx": refused, "5xx": refused };

export function pageRoutes(app: Api, deps: AppDeps): void {
  app.register(async (scope) => {
    acceptForms(scope);
    scope.addHook("onRoute", (route) => {
      route.schema = { ...route.schema, response: PAGE_REPLIES };
    });
    scope.setErrorHandler((error: FastifyError, request, reply) => {
      // What is a bug, or PostgreSQL's, is told as everywhere.
      if (!(error instanceof FarloomError)) throw error;
      request.problemCode = error.code;
      if (error.retryAfterMs !== undefined)
        reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
      return sendPage(
        reply,
        "That did not work",
        html`<p class="error" role="alert">${error.message}</p>`,
        error.status,
      );
    });
    loginPages(scope, deps);
    devicePage(scope, deps);
  });
}
