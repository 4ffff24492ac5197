/**
 * What the single file runs first: puts the agent's files where they can be read, and runs the one that is meant. The
 * agent starts programs of its own as `EXECUTABLE SCRIPT ARGUMENTS`, as it does with Node: the script's name picks one.
 *
 *     farloom-endpoint-agent ARGUMENTS                                     the agent
 *     farloom-endpoint-agent …/program/HASH/dist/bundle/main.js ARGUMENTS  the same, as a node of a block is started
 *     farloom-endpoint-agent --no-warnings …/dist/workers/node/main.js     the worker of functions in Node
 *
 * 1. The files lie in `program/HASH` of the state folder, the hash over all of them: an executable that was replaced
 *    brings its own, and what runs keeps those it began with.
 * 2. They appear whole or not at all.
 * 3. Only their user finds them, as the folders above are that user's alone. A sandbox shows another user `program/HASH`
 *    itself, and of it that one can read what a worker is made of, and nothing else.
 */
const {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  writeFileSync,
} = require("node:fs");
const { createRequire } = require("node:module");
const { homedir, tmpdir } = require("node:os");
const { dirname, join, resolve } = require("node:path");
const { getAsset } = require("node:sea");

/** What workers are started from; Node looks for package.json above them. */
const WORKERS = /^(package\.json|(dist|src)\/workers\/.+)$/;

const { hash, version, files } = JSON.parse(getAsset("index.json", "utf8"));
const args = process.argv.slice(2);
if (args[0] === "--no-warnings") args.shift();
const script = /^(.+)[/\\]dist[/\\](bundle[/\\]main|workers[/\\]node[/\\]main)\.js$/.exec(args[0] ?? "");
if (script) args.shift();

if (!script && (args[0] === "--version" || args[0] === "-V")) {
  process.stdout.write(`farloom-endpoint-agent/${version}\n`);
} else {
  const program = join(folder(), "dist", `${script ? script[2] : "bundle/main"}.js`);
  process.argv = [process.execPath, program, ...args];
  createRequire(program)(program);
}

/** The folder of this executable's files, made where it is missing. */
function folder() {
  const own = script && dirname(resolve(script[1]));
  const root = own ?? join(stateDir(), "program");
  const place = join(root, hash);
  if (existsSync(place)) return place;
  try {
    mkdirSync(root, { recursive: true, mode: 0o700 });
    const aside = mkdtempSync(join(root, `${hash}.`));
    unpack(aside);
    try {
      renameSync(aside, place); // 2
    } catch (error) {
      rmSync(aside, { recursive: true, force: true });
      // Another process of ours was first.
      if (!existsSync(place)) throw error;
    }
    return place;
  } catch (error) {
    // Where the state folder cannot be written the agent says so itself; for that, and for --help, it has to run.
    const place = mkdtempSync(join(tmpdir(), "farloom-program-"));
    process.once("exit", () => rmSync(place, { recursive: true, force: true }));
    process.env.FARLOOM_DEBUG && process.stderr.write(`${error.message}\n`);
    unpack(place);
    return place;
  }
}

function unpack(place) {
  for (const file of files) {
    mkdirSync(dirname(join(place, file)), { recursive: true, mode: 0o700 });
    writeFileSync(join(place, file), Buffer.from(getAsset(file)), { mode: 0o600 });
    if (!WORKERS.test(file)) continue;
    // Whatever the umask is (3).
    chmodSync(join(place, file), 0o644);
    for (let folder = dirname(file); ; folder = dirname(folder)) {
      chmodSync(join(place, folder), 0o711);
      if (folder === ".") break;
    }
  }
}

/** As the agent resolves it; a node of a block has its parameters' folder. */
function stateDir() {
  const value = (name) => {
    const at = args.findIndex((arg) => arg === name || arg.startsWith(`${name}=`));
    if (at < 0) return undefined;
    return args[at] === name ? args[at + 1] : args[at].slice(name.length + 1);
  };
  const parameters = value("--parameters");
  if (parameters !== undefined) return dirname(resolve(parameters));
  const given = value("--state-dir") || process.env.FARLOOM_AGENT_STATE_DIR || "~/.farloom/agent";
  return resolve(given.replace(/^~(?=\/|$)/, homedir()));
}
