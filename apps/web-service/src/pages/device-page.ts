/**
 * Approving a program that waits with a code (RFC 8628). The page says what asks, from which address, and what it may do; the
 * person compares the code with the one in their terminal, so that nobody approves what somebody else has begun unseen.
 */
import { FarloomError } from "@farloom/protocol";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { AppDeps } from "../app.js";
import { recordLogin } from "../audit/record-logins.js";
import type { DeviceRequest } from "../identity/device-logins.js";
import type { Principal } from "../identity/principal.js";
import { readUserCode } from "../identity/user-code.js";
import { html, sendPage } from "./html.js";
import { field, refusal, Visit } from "./visit.js";

const tags = ["login"];
const Text = (maxLength: number) => Type.Optional(Type.String({ maxLength }));

export function devicePage(scope: FastifyInstance, deps: AppDeps): void {
  const { identity, people, audit, config } = deps;
  const { devices, codeTries } = people;
  const visit = (request: FastifyRequest, reply: FastifyReply) =>
    Visit.of({ identity, publicUrl: config.publicUrl }, request, reply);

  const askPage = (reply: FastifyReply, error?: unknown) => {
    const status = error instanceof FarloomError ? error.status : 200;
    if (error instanceof FarloomError && error.retryAfterMs !== undefined)
      reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
    const body = html`${refusal(error)}<form method="get" action="/device">
<label for="user_code">The code that the program shows</label>
<input id="user_code" name="user_code" autocomplete="off" autocapitalize="characters" placeholder="BCDF-GHJK" required maxlength="20">
<button class="main">Next</button></form>`;
    return sendPage(reply, "Approve a program", body, status);
  };

  /** What waits with the code. @throws FarloomError USER_CODE_UNKNOWN, RATE_LIMITED */
  const find = async (principal: Principal, text: string): Promise<DeviceRequest & { code: string }> => {
    codeTries.require(principal.ownerId);
    const code = readUserCode(text);
    const waiting = code === undefined ? undefined : await devices.describe(code);
    if (code !== undefined && waiting !== undefined) return { ...waiting, code };
    codeTries.count(principal.ownerId);
    throw new FarloomError("USER_CODE_UNKNOWN");
  };

  scope.get(
    "/device",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "A page: what waits with a code, to approve or deny it",
        querystring: Type.Object({ user_code: Text(40) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      const { user_code: text } = request.query as { user_code?: string };
      if (!at.principal) {
        const next = text === undefined ? "/device" : `/device?user_code=${readUserCode(text) ?? ""}`;
        return reply.redirect(`/login?next=${encodeURIComponent(next)}`, 303);
      }
      if (text === undefined || text === "") return askPage(reply);
      try {
        const { code, client, origin, scopes } = await find(at.principal, text);
        // What it asks for, as far as this person may do it: it never has more.
        const given = scopes.filter((name) => at.principal!.scopes.has(name));
        const body = html`<p>A program asks to act for <strong>${at.principal.ownerName}</strong>. Approve it only if you have just begun this
yourself, and the program shows the same code.</p>
<dl><dt>Code</dt><dd><code>${code}</code></dd><dt>Program</dt><dd>${client}</dd><dt>From the address</dt><dd>${origin}</dd>
<dt>It may</dt><dd>${given.join(", ")}</dd></dl>
<form method="post" action="/device">${at.token()}<input type="hidden" name="user_code" value="${code}">
<button class="main" name="decision" value="approve">Approve</button><button name="decision" value="deny">Deny</button></form>`;
        return sendPage(reply, "Approve a program", body);
      } catch (error) {
        if (!(error instanceof FarloomError)) throw error;
        return askPage(reply, error);
      }
    },
  );

  scope.post(
    "/device",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        consumes: ["application/x-www-form-urlencoded"],
        summary: "The form of the page: approve or deny",
        body: Type.Object({ csrf: Text(100), user_code: Text(40), decision: Text(20) }),
      },
    },
    async (request, reply) => {
      const at = await visit(request, reply);
      at.requireOwnForm();
      if (!at.principal) return reply.redirect("/login?next=%2Fdevice", 303);
      const { ownerId, ownerName, keyId } = at.principal;
      try {
        const { code } = await find(at.principal, field(request, "user_code"));
        const isApproved = field(request, "decision") === "approve";
        const decided = await devices.decide(code, ownerId, isApproved);
        if (decided === undefined) throw new FarloomError("USER_CODE_UNKNOWN");
        const { client, origin, scopes } = decided;
        await recordLogin(audit, request, {
          action: isApproved ? "device.approve" : "device.deny",
          ownerId,
          actor: ownerName,
          credential: keyId,
          detail: { client, from: origin, scopes },
        });
        const body = isApproved
          ? html`<p>${client} is logged in as <strong>${ownerName}</strong>. You can close this page and go back to it.</p>`
          : html`<p>${client} was denied. Nothing was given to it.</p>`;
        return sendPage(reply, isApproved ? "Approved" : "Denied", body);
      } catch (error) {
        if (!(error instanceof FarloomError)) throw error;
        return askPage(reply, error);
      }
    },
  );
}
