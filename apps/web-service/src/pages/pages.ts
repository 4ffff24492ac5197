/** The pages of the service, in a scope of their own: they alone take forms, and their errors are pages too. */
import { FarloomError } from "@farloom/protocol";
import type { FastifyError } from "fastify";
import type { Api, AppDeps } from "../app.js";
import { acceptForms } from "../http/forms.js";
import { devicePage } from "./device-page.js";
import { html, sendPage } from "./html.js";
import { loginPages } from "./login-pages.js";

export function pageRoutes(app: Api, deps: AppDeps): void {
  app.register(async (scope) => {
    acceptForms(scope);
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
