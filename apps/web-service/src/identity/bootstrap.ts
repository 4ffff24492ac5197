/**
 * The first API key. Whoever starts the service names a file; if it holds no key that is valid here, an owner who
 * is admin and a key with every scope are made, and the key is written there for its owner's eyes only.
 */
import { readFile } from "node:fs/promises";
import type { FastifyBaseLogger } from "fastify";
import type { Config } from "../config.js";
import { replaceKeyFile } from "../support/key-file.js";
import type { Identity } from "./identity.js";
import { SCOPES } from "./principal.js";

const KEY_LIFE_MS = 365 * 24 * 3_600_000;

/** Does nothing where no file is configured, or where its key is good. */
export async function bootstrapKey(
  config: Config,
  identity: Identity,
  log: FastifyBaseLogger,
): Promise<void> {
  const { bootstrapKeyFile: file, bootstrapOwner: owner } = config;
  if (file === undefined) return;
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  if (await identity.keys.verify(text.trim())) return;
  const ownerId = await identity.keys.ensureOwner(owner, true);
  const { info, secret } = await identity.keys.create(ownerId, {
    label: "bootstrap",
    scopes: SCOPES,
    expiresAt: new Date(Date.now() + KEY_LIFE_MS),
  });
  await replaceKeyFile(file, `${secret}\n`);
  log.info({ keyId: info.id, owner, file, expiresAt: info.expiresAt }, "bootstrap key written");
}
