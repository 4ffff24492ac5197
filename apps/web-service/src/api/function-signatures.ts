/** Signatures of functions: adding one, and reading them. */
import { MAX_ENVELOPE_BYTES } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import type { FunctionSignature } from "../functions/signatures.js";
import { principalOf } from "../http/policy.js";
import { authorise } from "../identity/authorise.js";
import { problems, Strict, Time } from "./schemas.js";

const tags = ["functions"];
const Ref = Type.Object({ ref: Type.String({ minLength: 1, maxLength: 300 }) });
const SignatureView = Type.Object({
  id: Type.String({ description: "The SHA-256 of the envelope's text" }),
  envelope: Type.String({ description: "A DSSE envelope, canonical JSON" }),
  keyIds: Type.Array(Type.String(), { description: "Which keys signed, by what the envelope says" }),
  name: Type.String({ description: "The name that was signed: owner/name or owner/name@version" }),
  expiresAt: Type.Optional(Time),
  addedBy: Type.String(),
  addedAt: Time,
});
const List = Type.Object({ items: Type.Array(SignatureView) });

export function functionSignatureRoutes(app: Api, { functions, signatures }: AppDeps): void {
  app.post(
    "/v1/functions/:ref/signatures",
    {
      config: { policy: { scope: "functions:write" }, audit: "functions.sign" },
      schema: {
        tags,
        summary: "Add a signature to one version of a function that you may use; the same again is the same",
        description:
          "The service checks the envelope's form, and that it is about this function. Whose key it is, and whether to believe it, agents decide.",
        params: Ref,
        body: Strict({ envelope: Type.String({ minLength: 1, maxLength: MAX_ENVELOPE_BYTES }) }),
        response: { 200: List, 201: List, ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const record = await functions.resolve(principal, request.params.ref);
      authorise(principal, "functions:write", { fn: record });
      const { created } = await signatures.add(record, request.body.envelope, principal.ownerId);
      request.audited = { target: record.ref, detail: { id: record.id }, isUnchanged: !created };
      return reply
        .code(created ? 201 : 200)
        .send({ items: (await signatures.list(record, principal.ownerId)).map(view) });
    },
  );

  app.get(
    "/v1/functions/:ref/signatures",
    {
      config: { policy: { scope: "functions:read", narrow: true } },
      schema: {
        tags,
        summary: "The signatures of one version of a function, the newest first",
        params: Ref,
        response: { 200: List, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const record = await functions.resolve(principal, request.params.ref);
      authorise(principal, "functions:read", { fn: record });
      return { items: (await signatures.list(record, principal.ownerId)).map(view) };
    },
  );
}

function view({ expires, addedAtMs, ...rest }: FunctionSignature) {
  return {
    ...rest,
    keyIds: [...rest.keyIds],
    addedAt: new Date(addedAtMs).toISOString(),
    ...(expires === undefined ? {} : { expiresAt: timeText(expires) }),
  };
}

/** A signer may write any number of seconds. */
function timeText(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "never" : date.toISOString();
}
