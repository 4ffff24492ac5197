#!/usr/bin/env node
/**
 * The web service as a process: configuration from the environment, signals, exit codes. Everything else is in
 * service.ts.
 *
 * SIGTERM and SIGINT stop it gently, a second one at once. A parent that started it with an IPC channel hears
 * {ready: url}, and its end stops the service too, so that nothing outlives `farloom dev`.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beginPrivately } from "@farloom/protocol/process";
import { type Logger, pino } from "pino";
import { type Config, ConfigError, resolveConfig } from "./config.js";
import { startService } from "./service.js";

/** Time for a stop: what is in hand is committed in far less. */
const STOP_MS = 15_000;
const EXIT_FAILURE = 1;
/** EX_CONFIG of sysexits.h: starting again with the same settings will fail again. */
const EXIT_CONFIG = 78;

// The embedded parts, which are its children, too: their files, sockets and folders, and their core files.
beginPrivately();
try {
  await run();
} catch (error) {
  // Before there is a logger there is only standard error.
  process.stderr.write(`farloom-web-service: ${(error as Error).message}\n`);
  process.exit(error instanceof ConfigError ? EXIT_CONFIG : EXIT_FAILURE);
}

async function run(): Promise<void> {
  const config = resolveConfig();
  const pretty = process.stdout.isTTY;
  const log = pino({
    level: config.logLevel,
    redact: { paths: ["req.headers.authorization", "headers.authorization"], remove: true },
    ...(pretty ? { transport: { target: "pino-pretty" } } : {}),
  });

  let stopping: Promise<void> | undefined;
  const started = startService(config, log);
  const stop = (reason: string): void => {
    if (stopping) process.exit(EXIT_FAILURE);
    log.info({ reason }, "stopping");
    setTimeout(() => {
      log.error({ afterMs: STOP_MS }, "the stop took too long");
      process.exit(EXIT_FAILURE);
    }, STOP_MS).unref();
    // A stop that comes during the start waits for it: half a service cannot be closed.
    stopping = started
      .then((service) => service.close())
      .then(
        () => process.exit(0),
        () => process.exit(EXIT_FAILURE),
      );
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  if (process.send) process.on("disconnect", () => stopping || stop("the parent is gone"));

  const { url, firstAdminToken } = await started;
  if (process.send) process.send({ ready: url, firstAdminToken });
  tellFirstAdmin(config, log, `${url}/setup`, firstAdminToken);
}

/**
 * With what the first administrator makes an account: a secret, good once and for a day. A person who looks is told; where
 * what is written here may be kept (a journal, a log of containers), it lies in a file of the state folder instead.
 */
function tellFirstAdmin(config: Config, log: Logger, page: string, token: string | undefined): void {
  const file = join(config.stateDir, "first-admin-token");
  rmSync(file, { force: true });
  if (token === undefined) return;
  if (process.stderr.isTTY) {
    process.stderr.write(
      `Nobody can log in by browser yet. The first administrator makes an account at ${page} with the one-time token ${token}\n`,
    );
    return;
  }
  writeFileSync(file, `${token}\n`, { mode: 0o600 });
  log.warn(
    { page, file },
    "nobody can log in by browser yet: the one-time token for that page is in this file",
  );
}
