/**
 * Forms (application/x-www-form-urlencoded), for the few routes that take them: pages, and those of OAuth. Everywhere else a
 * form is refused, which keeps simple cross-site posts out. A field that comes twice makes the form invalid.
 */
import { FarloomError } from "@farloom/protocol";
import type { FastifyInstance } from "fastify";

const MAX_FORM_BYTES = 16 * 1024;
const MAX_FIELDS = 32;

/** For a scope of routes of its own (`app.register`). */
export function acceptForms(scope: FastifyInstance): void {
  scope.addContentTypeParser(
    "application/x-www-form-urlencoded",
    { parseAs: "string", bodyLimit: MAX_FORM_BYTES },
    async (_request: unknown, body: string) => parseForm(body),
  );
}

/** @throws FarloomError BODY_INVALID */
export function parseForm(body: string): Record<string, string> {
  const fields: Record<string, string> = Object.create(null);
  let count = 0;
  for (const [name, value] of new URLSearchParams(body)) {
    if (name in fields || ++count > MAX_FIELDS)
      throw new FarloomError("BODY_INVALID", {
        type: "form",
        detail: "a field comes twice, or there are too many",
      });
    fields[name] = value;
  }
  return fields;
}
