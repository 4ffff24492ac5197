/**
 * Schema checks of requests. Bodies are taken as they are: nothing is coerced, dropped or filled in, so a typo
 * in a field's name is told and not swallowed. Parameters and queries are text, and become what the schema says.
 */
import { FarloomError } from "@farloom/protocol";
import { Ajv, type ErrorObject } from "ajv";
import type { FastifyInstance } from "fastify";

const OPTIONS = {
  strict: false,
  validateFormats: false,
  useDefaults: true,
  removeAdditional: false,
} as const;

export function registerValidation(app: FastifyInstance): void {
  const bodies = new Ajv({ ...OPTIONS, coerceTypes: false });
  const texts = new Ajv({ ...OPTIONS, coerceTypes: true });
  app.setValidatorCompiler(({ schema, httpPart }) => {
    const validate = (httpPart === "body" ? bodies : texts).compile(schema as object);
    return (value) => {
      if (validate(value)) return { value };
      return {
        error: new FarloomError("REQUEST_INVALID", {
          detail: describe(validate.errors!, httpPart ?? "request"),
        }),
      };
    };
  });
}

/** The first error, in words that name the field and what it should have been. */
function describe(errors: readonly ErrorObject[], part: string): string {
  const error = errors[0]!;
  const at = `${part === "querystring" ? "query" : part}${error.instancePath.replaceAll("/", ".")}`;
  switch (error.keyword) {
    case "additionalProperties":
      return `${at} has the unknown field ${JSON.stringify(error.params.additionalProperty).slice(0, 100)}`;
    case "enum":
      return `${at} must be one of ${(error.params.allowedValues as unknown[]).join(", ")}`;
    case "const":
      return `${at} must be ${JSON.stringify(error.params.allowedValue)}`;
    default:
      return `${at} ${error.message ?? "is not valid"}`;
  }
}
