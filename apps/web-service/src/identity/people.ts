/** Everything about people and their logins, as one thing that routes and pages are given. */
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Config } from "../config.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { Accounts } from "./accounts.js";
import { Attempts } from "./attempts.js";
import { DeviceLogins } from "./device-logins.js";
import type { KeyRing } from "./key-ring.js";
import { Oidc } from "./oidc.js";

const MINUTES = 60_000;

export interface People {
  readonly accounts: Accounts;
  readonly devices: DeviceLogins;
  readonly oidc: Oidc;
  readonly keyRing: KeyRing;
  /** Passwords tried of an account: ten in a quarter of an hour. One that is right counts no more. */
  readonly passwordTries: Attempts;
  /** The same from an address, whoever's: a hundred, as a whole institute may come from one. */
  readonly addressTries: Attempts;
  /** Wrong user codes of somebody who is logged in. */
  readonly codeTries: Attempts;
  /** Programs that begin a login, from an address. */
  readonly deviceStarts: Attempts;
}

export function openPeople(
  { pool, tenants }: { readonly pool: Pool; readonly tenants: TenantPool },
  keyRing: KeyRing,
  { config, log }: { readonly config: Config; readonly log: Logger },
): People {
  return {
    accounts: new Accounts(pool, tenants),
    devices: new DeviceLogins(pool),
    oidc: new Oidc(config.oidcProviders, keyRing, log),
    keyRing,
    passwordTries: new Attempts(10, 15 * MINUTES),
    addressTries: new Attempts(100, 15 * MINUTES),
    codeTries: new Attempts(10, 10 * MINUTES),
    deviceStarts: new Attempts(60, 10 * MINUTES),
  };
}

/**
 * A token for the first administrator, where nobody can log in by browser yet and no provider names one: whoever reads the
 * console of the service may be it. undefined where there is somebody.
 */
export async function firstAdminToken({ accounts, oidc }: People): Promise<string | undefined> {
  if (oidc.providers.some(({ admins }) => admins.length > 0) || (await accounts.hasPeople()))
    return undefined;
  return (await accounts.makeLink("", true)).token;
}
