#!/usr/bin/env node
/**
 * `npm run build:agent-binary`: the agent as one executable file, for hosts without Node: this machine's own Node with the
 * agent's files in it (Node's "single executable applications"). For another system, run it there.
 */
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { inject } from "postject";
import { ROOT, runOrFail } from "../lib/run.mjs";
import { bundleAgent } from "./bundle.mjs";

/** The mark in every Node that says where a blob may be put. */
const FUSE = "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2";

export const BINARY = join(ROOT, "dist", `farloom-endpoint-agent-${process.platform}-${process.arch}`);

/** Builds the file; resolves with its path. */
export async function buildBinary() {
  const staging = mkdtempSync(join(tmpdir(), "farloom-binary-"));
  try {
    await runOrFail("npx", ["tsc", "-b", "apps/endpoint-agent"], { message: "the agent does not build" });
    const folder = join(staging, "agent");
    const files = (await bundleAgent(folder)).sort();
    const hash = createHash("sha256");
    for (const file of files)
      hash
        .update(`${file}\0`)
        .update(readFileSync(join(folder, file)))
        .update("\0");
    const main = join(ROOT, "scripts/agent-binary/launch.cjs");
    // What puts them there, too: another one would find what the one before it made, and leave it.
    hash.update(readFileSync(main));
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const index = join(staging, "index.json");
    writeFileSync(index, JSON.stringify({ hash: hash.digest("hex").slice(0, 12), version, files }));
    const config = join(staging, "sea.json");
    const blob = join(staging, "agent.blob");
    const assets = Object.fromEntries([
      ["index.json", index],
      ...files.map((file) => [file, join(folder, file)]),
    ]);
    writeFileSync(
      config,
      JSON.stringify({ main, output: blob, disableExperimentalSEAWarning: true, assets }),
    );
    await runOrFail(process.execPath, ["--experimental-sea-config", config], {
      message: "Node makes no blob",
    });
    mkdirSync(join(ROOT, "dist"), { recursive: true });
    const aside = `${BINARY}.${process.pid}`;
    copyFileSync(process.execPath, aside);
    chmodSync(aside, 0o755);
    await quietly(() => inject(aside, "NODE_SEA_BLOB", readFileSync(blob), { sentinelFuse: FUSE }));
    renameSync(aside, BINARY);
    return BINARY;
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** postject tells of its steps on the console. */
async function quietly(work) {
  const { log } = console;
  console.log = () => {};
  try {
    await work();
  } finally {
    console.log = log;
  }
}

if (process.argv[1] === import.meta.filename) {
  const path = await buildBinary();
  const sizeMb = Math.round(statSync(path).size / 1024 ** 2);
  process.stdout.write(`${relative(ROOT, path)}  ${sizeMb} MB, Node.js ${process.versions.node}\n`);
}
