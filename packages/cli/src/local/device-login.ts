/** The program's side of a device login (RFC 8628): begin it, and ask until somebody has approved it. */
import { hostname, userInfo } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { FarloomError } from "@farloom/protocol";
import { type StoredLogin, toStoredLogin } from "@farloom/sdk";
import { CliError, NOT_AUTHENTICATED, UNREACHABLE } from "../exit-codes.js";

const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const REQUEST_MS = 15_000;
/** Where the service does not say (RFC 8628, 3.5). */
const INTERVAL_S = 5;

export interface DeviceCodes {
  readonly deviceCode: string;
  readonly userCode: string;
  readonly page: string;
  /** The page with the code filled in. */
  readonly pageWithCode: string;
  readonly intervalS: number;
  readonly expiresInS: number;
}

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** Whether people log in at this service at all; one of before has API keys alone. */
export async function offersLogin(url: string): Promise<boolean> {
  const { status, body } = await ask(url, "/.well-known/oauth-authorization-server", undefined);
  return status === 200 && typeof body.device_authorization_endpoint === "string";
}

/** @throws FarloomError what the service says, CliError */
export async function beginDeviceLogin(url: string, version: string): Promise<DeviceCodes> {
  const { status, body } = await ask(url, "/v1/oauth/device", {
    client_id: `farloom ${version}`,
    host: `${userInfo().username}@${hostname()}`.slice(0, 100),
  });
  if (status !== 200) throw refused(body);
  return {
    deviceCode: String(body.device_code),
    userCode: String(body.user_code),
    page: String(body.verification_uri),
    pageWithCode: String(body.verification_uri_complete ?? body.verification_uri),
    intervalS: typeof body.interval === "number" ? body.interval : INTERVAL_S,
    expiresInS: Number(body.expires_in),
  };
}

/** Waits for the approval, as often as the service allows to ask. @throws CliError where it is denied or comes too late */
export async function awaitApproval(
  url: string,
  codes: DeviceCodes,
  signal: AbortSignal,
): Promise<StoredLogin> {
  let intervalS = codes.intervalS;
  const untilMs = performance.now() + codes.expiresInS * 1000;
  for (;;) {
    await sleep(intervalS * 1000, undefined, { signal });
    const askedAtMs = Date.now();
    const request = { grant_type: DEVICE_GRANT, device_code: codes.deviceCode };
    const { status, body } = await ask(url, "/v1/oauth/token", request).catch((error: CliError) => {
      // A network that is away for a moment ends no login.
      if (performance.now() > untilMs) throw error;
      return { status: 400, body: { error: "authorization_pending" } } as Answer;
    });
    if (status === 200) return toStoredLogin(body, askedAtMs);
    if (body.error === "slow_down")
      intervalS = Math.max(intervalS + INTERVAL_S, Number(body.retryAfterMs ?? 0) / 1000);
    else if (status === 429 || status >= 500) intervalS += INTERVAL_S;
    else if (body.error !== "authorization_pending")
      throw new CliError(String(body.detail ?? "the login was refused"), NOT_AUTHENTICATED);
  }
}

/** Ends a login at the service. */
export async function revokeLogin(url: string, refreshToken: string): Promise<void> {
  const { status, body } = await ask(url, "/v1/oauth/revoke", { token: refreshToken });
  if (status !== 200) throw refused(body);
}

function refused(body: Record<string, unknown>): Error {
  const message = String(body.detail ?? "the service refused it");
  return new CliError(message, NOT_AUTHENTICATED);
}

async function ask(url: string, path: string, json: object | undefined): Promise<Answer> {
  try {
    const response = await fetch(url.replace(/\/+$/, "") + path, {
      ...(json !== undefined && {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(json),
      }),
      redirect: "error",
      signal: AbortSignal.timeout(REQUEST_MS),
    });
    const body: unknown = await response.json().catch(() => ({}));
    return { status: response.status, body: (body ?? {}) as Record<string, unknown> };
  } catch (cause) {
    const error = new FarloomError(
      "SERVICE_UNREACHABLE",
      { url, detail: "nothing answers there" },
      { cause },
    );
    throw new CliError(error.message, UNREACHABLE);
  }
}
