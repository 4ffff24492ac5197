// Makes the Prisma client from prisma/schema.prisma, offline, and only when something it is made from changed.
//
// 1. No network. Every Prisma command wants a schema engine from a host that is often unreachable; a binary
//    that exists is never fetched, and `generate` never runs it. It is one that fails, so that a `migrate`
//    run by mistake fails loudly as well (a `true` there would report success and do nothing).
// 2. The stamp is written last, so a run that was cut off is done again.
// 3. Runs at the same time (build, test and start all call this) take turns.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const serviceDir = join(root, "apps/web-service");
const generatedDir = join(serviceDir, "src/generated");
const stampFile = join(generatedDir, ".stamp");
const lockDir = join(serviceDir, "src/.generate-lock");
/** A generation takes about 3 s; one that has held the lock this long was killed. */
const staleLockMs = 60_000;

const require = createRequire(join(serviceDir, "package.json"));
const prismaPackageFile = require.resolve("prisma/package.json");

const inputs = [join(root, "prisma/schema.prisma"), join(root, "prisma.config.ts"), prismaPackageFile];
const wanted = createHash("sha256")
  .update(inputs.map((file) => readFileSync(file)).join("\0"))
  .digest("hex");

function isFresh() {
  return (
    existsSync(stampFile) &&
    readFileSync(stampFile, "utf8") === wanted &&
    existsSync(join(generatedDir, "prisma/client.ts"))
  );
}

async function lock() {
  for (;;) {
    try {
      mkdirSync(lockDir);
      return;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const heldSince = statSync(lockDir, { throwIfNoEntry: false })?.mtimeMs;
    if (heldSince !== undefined && Date.now() - heldSince > staleLockMs)
      rmSync(lockDir, { recursive: true, force: true });
    else await sleep(100);
  }
}

/** A program that exists, and fails: see rule 1. */
function failingBinary() {
  const found = ["/bin/false", "/usr/bin/false"].find((file) => existsSync(file));
  return found ?? process.execPath;
}

function generate() {
  const cli = join(dirname(prismaPackageFile), "build/index.js");
  const run = spawnSync(process.execPath, [cli, "generate", "--no-hints"], {
    cwd: root,
    encoding: "utf8",
    env: {
      ...process.env,
      PRISMA_SCHEMA_ENGINE_BINARY: failingBinary(),
      PRISMA_HIDE_UPDATE_MESSAGE: "1",
      CHECKPOINT_DISABLE: "1",
    },
  });
  if (run.status !== 0) {
    process.stderr.write(
      `prisma generate failed:\n${run.stdout ?? ""}${run.stderr ?? run.error?.message ?? ""}\n`,
    );
    process.exitCode = 1;
    return;
  }
  writeFileSync(stampFile, wanted);
}

if (!isFresh()) {
  await lock();
  try {
    if (!isFresh()) generate();
  } finally {
    rmSync(lockDir, { recursive: true, force: true });
  }
}
