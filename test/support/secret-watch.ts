/**
 * Finds secrets where none may be: in what processes write, in their command lines, in what they leave on disk, in errors.
 * Ours have forms of their own (secret-patterns.json, which python/tests read as well), so nobody needs to say which there
 * are; those without a form are told (`know`).
 *
 *   1. A finding says what kind of secret is where, and shows the text around it, never the secret.
 *   2. Files whose purpose is to hold a secret may (HOLDERS), and then nobody else may read them.
 *   3. Command lines are looked at while their processes live, as often as costs nothing; what a test starts itself is
 *      told whole.
 */
import { closeSync, type Dirent, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { basename, join } from "node:path";

const SAMPLE_MS = 1_000;
/** Of a file that is larger its end. */
const MAX_FILE_BYTES = 8 * 1024 * 1024;
const MAX_FINDINGS = 50;
const AROUND = 40;
const PATTERNS: readonly { kind: string; pattern: string }[] = JSON.parse(
  readFileSync(join(import.meta.dirname, "secret-patterns.json"), "utf8"),
);
const FORMS = PATTERNS.map(({ kind, pattern }) => ({ kind, pattern: new RegExp(pattern, "g") }));
const RANDOM = "32 random bytes";

/** What lies in state folders to hold a secret, by the file's name and what holds it. */
const HOLDERS: readonly RegExp[] = [
  /\/first\.key$/, // The bootstrap owner's.
  /\/service\/signing-key\.pem[^/]*$/, // That signs tokens.
  /\/first-admin-token$/, // For the first account.
  /\/sign-keys\/[^/]+\.pem$/, // A person's own, for functions and calls.
  /\/private-key\.pem(\.\w+)?$/, // The agent's.
  /\/blocks\/[^/]+\.json[^/]*$/, // What a block's nodes prove themselves with, and the door's own key.
  /\/launch\.sh$/, // A proxy's URL may have a password.
  /\/run\/workers\.json[^/]*$/, // What workers prove themselves with.
];

export interface Finding {
  readonly kind: string;
  readonly where: string;
  /** The text around it. */
  readonly around: string;
}

/** What people store is theirs, and large. */
const THEIRS = /\/service\/(objects|payloads)\//;

/** The secrets in a text, by their forms and those that are `known`. */
export function findSecrets(
  where: string,
  text: string,
  known: ReadonlyMap<string, string> = new Map(),
): Finding[] {
  const found: Finding[] = [];
  const add = (kind: string, at: number, length: number): void => {
    const before = text.slice(Math.max(0, at - AROUND), at);
    const around = `${before}<${kind}>${text.slice(at + length, at + length + AROUND)}`;
    found.push({ kind, where, around: hidden(around) });
  };
  for (const { kind, pattern } of FORMS) {
    for (const match of text.matchAll(pattern)) {
      if (kind !== RANDOM || looksRandom(match[0])) add(kind, match.index, match[0].length);
      if (found.length >= MAX_FINDINGS) return found;
    }
  }
  for (const [secret, kind] of known) {
    const at = text.indexOf(secret);
    if (at >= 0) add(kind, at, secret.length);
  }
  return found;
}

/** As random bytes in base64 are: of both cases, with digits. Names and digests are not. */
function looksRandom(word: string): boolean {
  const kinds = [/[a-z]/g, /[A-Z]/g, /[0-9]/g].map((letters) => word.match(letters)?.length ?? 0);
  return kinds.every((count) => count >= 2);
}

/** What stands around a secret may be one (1). */
function hidden(text: string): string {
  return FORMS.reduce((rest, { kind, pattern }) => rest.replace(pattern, `<${kind}>`), text).replaceAll(
    "\0",
    " ",
  );
}

export class SecretWatch {
  readonly #known = new Map<string, string>();
  readonly #findings = new Map<string, Finding>();
  /** Processes whose command lines are looked at, and whether their environments are too. */
  readonly #roots = new Map<number, boolean>();
  #timer: NodeJS.Timeout | undefined;

  /** A secret without a form of its own. */
  know(secret: string, kind: string): void {
    if (secret.length >= 8) this.#known.set(secret, kind);
  }

  /** The password of a URL. */
  knowUrl(url: string): void {
    this.know(decodeURIComponent(new URL(url).password), "the database's password");
  }

  /** Looks at a text: a line of a log, an error, a command line. */
  look(where: string, text: string): void {
    for (const finding of findSecrets(where, text, this.#known)) {
      const key = `${finding.where} ${finding.kind}`;
      if (this.#findings.size < MAX_FINDINGS && !this.#findings.has(key)) this.#findings.set(key, finding);
    }
  }

  /**
   * Looks at the command lines of the process and of all that it starts, from now on (3); and, where `environment` is set,
   * at what they were started with: tasks inherit that.
   */
  follow(pid: number, environment = false): void {
    this.#roots.set(pid, environment);
    this.#timer ??= setInterval(() => this.sample(), SAMPLE_MS).unref();
  }

  /** Looks at all of them now. */
  sample(): void {
    for (const [root, environment] of this.#roots) {
      for (const pid of descendants(root)) {
        const argv = readProc(pid, "cmdline") ?? "";
        this.look(`the command line of ${nameOf(argv)}`, argv);
        if (environment) this.look(`the environment of ${nameOf(argv)}`, readProc(pid, "environ") ?? "");
      }
    }
  }

  /** Looks at all that is in a folder (2). */
  lookInto(folder: string): void {
    for (const path of filesIn(folder)) {
      try {
        const { mode, size } = statSync(path);
        if (HOLDERS.some((holder) => holder.test(path))) {
          if ((mode & 0o077) !== 0)
            this.#findings.set(path, {
              kind: "a file with a secret that others may read",
              where: path,
              around: "",
            });
          continue;
        }
        if (size === 0 || THEIRS.test(path)) continue;
        this.look(`the file ${path.slice(folder.length + 1)}`, tailOf(path, size));
      } catch {
        // It has gone meanwhile.
      }
    }
  }

  /** What was found, as text for a failure. */
  get findings(): readonly string[] {
    return [...this.#findings.values()].map(({ kind, where, around }) => `${kind} in ${where}: …${around}…`);
  }

  /** Ends the looking at command lines, after a last look. */
  stop(): void {
    this.sample();
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#roots.clear();
  }
}

/** The process and what descends from it, as long as its parents live. What runs here starts children from its first thread. */
function descendants(root: number): number[] {
  const found = [root];
  for (const pid of found) {
    const children = readProc(pid, `task/${pid}/children`) ?? "";
    found.push(...children.split(" ").filter(Boolean).map(Number));
  }
  return found;
}

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    return undefined;
  }
}

/** The end of a file, as text of single bytes. */
function tailOf(path: string, sizeBytes: number): string {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(Math.min(sizeBytes, MAX_FILE_BYTES));
    const read = readSync(file, bytes, 0, bytes.length, sizeBytes - bytes.length);
    return bytes.subarray(0, read).toString("latin1");
  } finally {
    closeSync(file);
  }
}

/** The program and, where it is an interpreter, its script. What else is there may be the secret. */
function nameOf(argv: string): string {
  const [program = "", script = ""] = argv.split("\0");
  return /\.(m?js|py|sh)$/.test(script) ? `${basename(program)} ${basename(script)}` : basename(program);
}

function* filesIn(folder: string): Generator<string> {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {
    return;
  }
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesIn(path);
    else if (entry.isFile()) yield path;
  }
}
