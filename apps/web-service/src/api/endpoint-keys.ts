/** The key with which an endpoint's agent proves itself: handed on from one to the next, or taken away at once. */
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { Enrolment } from "../endpoints/enrolment.js";
import { principalOf } from "../http/policy.js";
import { authorise } from "../identity/authorise.js";
import { problems, Strict, Uuid } from "./schemas.js";

const tags = ["endpoints"];
const Signature = Type.String({
  pattern: "^[A-Za-z0-9+/_-]{86}(==)?$",
  description: "64 bytes in base64 or base64url",
});

export function endpointKeyRoutes(app: Api, deps: AppDeps): void {
  const { endpoints, identity } = deps;
  const enrolment = new Enrolment(deps, identity);

  app.post(
    "/v1/endpoints/:id/rekey",
    {
      config: { policy: { public: true }, audit: "endpoints.rekey" },
      schema: {
        tags,
        summary: "For agents: hand in the next public key, signed by the one before and by itself",
        description:
          "Both signatures (Ed25519) are over `farloom-rekey-v1\\n{host}\\n{endpoint id}\\n{nonce}\\n{new public key in base64url}`, with a nonce of the challenge.",
        params: Type.Object({ id: Uuid }),
        body: Strict({
          nonce: Type.String({ maxLength: 100 }),
          publicKey: Type.String({
            pattern: "^[A-Za-z0-9+/_-]{43}=?$",
            description: "Raw Ed25519 public key, 32 bytes in base64",
          }),
          signature: Signature,
          newSignature: Signature,
        }),
        response: { 200: Type.Object({ name: Type.String(), owner: Type.String() }), ...problems },
      },
    },
    async (request) => {
      const { nonce, publicKey, signature, newSignature } = request.body;
      const made = await enrolment.rekey(request.params.id.toLowerCase(), {
        nonce,
        publicKey: Buffer.from(publicKey, "base64"),
        signature: Buffer.from(signature, "base64"),
        newSignature: Buffer.from(newSignature, "base64"),
        host: request.headers.host ?? "",
      });
      request.audited = { detail: { ...made } };
      return made;
    },
  );

  app.post(
    "/v1/endpoints/:id/revoke",
    {
      config: { policy: { scope: "endpoints:write" }, audit: "endpoints.revoke" },
      schema: {
        tags,
        summary:
          "Take the endpoint from its agent at once: its connection ends within 5 s, and it may not connect again. Tasks wait for whoever enrols next",
        params: Type.Object({ id: Type.String({ minLength: 1, maxLength: 200 }) }),
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const endpoint = await endpoints.resolve(principal, request.params.id);
      authorise(principal, "endpoints:write", { endpoint });
      await enrolment.revoke(principal, endpoint);
      request.audited = { target: endpoint.id, detail: { name: endpoint.name } };
      return reply.code(204).send(null);
    },
  );
}
