/**
 * The agent as a few files: its two programs (the agent, and the worker of functions in Node) each bundled to one CommonJS
 * file, and whatever they read beside themselves, in the layout of the package. A program finds those files from its own
 * place, so that the sources know nothing of bundles:
 *
 *     package.json  dist/bundle/main.js  dist/workers/node/main.js  src/**           (all that is no TypeScript)
 *
 * `import.meta.url`, which CommonJS has not, becomes the URL that the module's own file would have there.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { build } from "esbuild";
import { ownUrls } from "../lib/own-urls.mjs";
import { ROOT } from "../lib/run.mjs";

const PACKAGE = join(ROOT, "apps/endpoint-agent");
/** What each is made from, and how many folders it lies below the package. */
const PROGRAMS = {
  "dist/bundle/main.js": { from: "dist/main.js", up: "../.." },
  "dist/workers/node/main.js": { from: "dist/workers/node/main.js", up: "../../.." },
};

/** Writes the files below `folder`; resolves with their paths, relative to it. The agent must have been built. */
export async function bundleAgent(folder) {
  const files = [];
  const write = (path, content) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
    files.push(path);
  };
  for (const [program, { from, up }] of Object.entries(PROGRAMS)) {
    await build({
      entryPoints: [join(PACKAGE, from)],
      outfile: join(folder, program),
      bundle: true,
      platform: "node",
      target: "node20",
      format: "cjs",
      legalComments: "eof",
      logLevel: "error",
      // Native speed-ups that are no part of one file: ws does without.
      external: ["bufferutil", "utf-8-validate"],
      banner: {
        js: `const __package = require("node:path").resolve(__dirname, ${JSON.stringify(up)});\nconst __urlOf = (path) => require("node:url").pathToFileURL(require("node:path").join(__package, path)).href;`,
      },
      plugins: [ownUrls(PACKAGE)],
    });
    files.push(program);
  }
  const { name, version } = JSON.parse(readFileSync(join(PACKAGE, "package.json"), "utf8"));
  write("package.json", JSON.stringify({ name, version }));
  for (const path of assets(join(PACKAGE, "src"))) write(path, readFileSync(join(PACKAGE, path)));
  return files;
}

/** Everything below `dir` that a program may read, and no compiler does. */
function assets(dir) {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.ts$|^test_|\.pyc$/.test(entry.name))
    .map((entry) => relative(PACKAGE, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .filter((path) => !path.includes("/fixtures/"));
}
