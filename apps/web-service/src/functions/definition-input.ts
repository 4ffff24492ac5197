/**
 * What a request says of a function, checked and made whole: defaults filled in, sizes bounded, names that look
 * like names. Nothing is executed or parsed as code here; whether the code is any good the worker says.
 */
import { FarloomError, type FunctionDefinition, limits, type Mode, type Runtime } from "@farloom/protocol";
import { checkArgumentsSchema } from "./arguments-schema.js";
import { parseRequirement } from "./requirements.js";

/** A definition ready to be hashed and kept. */
export interface FunctionInput {
  readonly name: string;
  readonly description: string;
  readonly definition: Omit<FunctionDefinition, "digest">;
  readonly argsSchema?: unknown;
  readonly resultSchema?: unknown;
}

/** The JSON column: everything but the code, which has a column of its own. */
export type StoredDefinition = Omit<FunctionDefinition, "digest" | "code"> & {
  argsSchema?: unknown;
  resultSchema?: unknown;
};

/** A registration as it comes in the body, its shape already checked by the route's schema. */
export interface RegisterBody {
  name: string;
  runtime: Runtime;
  code?: string | Buffer;
  format?: "source" | "pickle";
  entry?: string;
  mode?: Mode;
  timeoutMs?: number;
  retries?: number;
  backoffMs?: number;
  env?: FunctionDefinition["env"];
  resources?: FunctionDefinition["resources"];
  command?: NonNullable<FunctionDefinition["command"]>;
  argsSchema?: unknown;
  resultSchema?: unknown;
  description?: string;
}

export const MAX_NAME_LENGTH = 128;
export const MAX_DESCRIPTION_LENGTH = 4_096;
/** A month: longer runs belong to a batch system's own queue. */
export const MAX_TIMEOUT_MS = 31 * 24 * 3_600_000;
export const MAX_RETRIES = 100;
export const MAX_BACKOFF_MS = 24 * 3_600_000;
/** Names and values together; the kernel's limit for an environment is 2 MiB. */
const MAX_ENV_BYTES = 64 * 1024;
const MAX_COMMAND_BYTES = 64 * 1024;

/** @throws FarloomError FUNCTION_INVALID, CODE_TOO_LARGE */
export function checkFunction(body: RegisterBody): FunctionInput {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(body.name) || body.name.length > MAX_NAME_LENGTH) {
    throw bad(
      `the name ${quote(body.name)} is not 1 to ${MAX_NAME_LENGTH} letters, digits and _ . -, first no . or -`,
    );
  }
  if (/^[0-9a-f]{64}$/i.test(body.name))
    throw bad("a name of 64 hexadecimal digits would be taken for an id");

  const format = body.format ?? "source";
  const retries = body.retries ?? 0;
  const code = codeOf(body, format);
  const input: FunctionInput = {
    name: body.name,
    description: body.description ?? "",
    definition: {
      runtime: body.runtime,
      format,
      code,
      entry: entryOf(body, format),
      // Whoever asks for retries has said that running twice does no harm.
      mode: body.mode ?? (retries > 0 ? "at_least_once" : "at_most_once"),
      timeoutMs: body.timeoutMs ?? 0,
      retries,
      backoffMs: body.backoffMs ?? 0,
      env: envOf(body),
      resources: resourcesOf(body),
      ...(body.command === undefined ? {} : { command: commandOf(body) }),
    },
    ...(body.argsSchema === undefined ? {} : { argsSchema: body.argsSchema }),
    ...(body.resultSchema === undefined ? {} : { resultSchema: body.resultSchema }),
  };
  if (body.runtime === "command" && body.command === undefined)
    throw bad("runtime command needs a command with an argv");
  if (body.argsSchema !== undefined) {
    const why = checkArgumentsSchema(body.argsSchema);
    if (why !== undefined) throw bad(`argsSchema: ${why}`);
  }
  return input;
}

function codeOf(body: RegisterBody, format: "source" | "pickle"): Buffer {
  // The schema takes anything here, as bytes have no type in it.
  if (body.code !== undefined && typeof body.code !== "string" && !Buffer.isBuffer(body.code))
    throw bad("code is a text, or bytes where the body is MessagePack");
  if (body.runtime === "command") {
    if (body.code !== undefined && body.code.length > 0)
      throw bad("runtime command has no code; say what to run in command.argv");
    if (format !== "source") throw bad("runtime command has no pickled code");
    return Buffer.alloc(0);
  }
  if (format === "pickle" && body.runtime !== "python") throw bad("only runtime python has pickled code");
  if (body.code === undefined || body.code.length === 0) throw bad("code is missing");
  const code = format === "source" ? sourceOf(body.code) : pickleOf(body.code);
  if (code.length > limits.MAX_CODE_BYTES) {
    throw new FarloomError("CODE_TOO_LARGE", { size: code.length, limit: limits.MAX_CODE_BYTES });
  }
  return code;
}

function sourceOf(code: string | Buffer): Buffer {
  const bytes = typeof code === "string" ? Buffer.from(code, "utf8") : code;
  if (bytes.includes(0)) throw bad("the source contains a NUL character");
  return bytes;
}

function pickleOf(code: string | Buffer): Buffer {
  if (typeof code !== "string") return code;
  // Buffer.from skips what is not base64, and would keep code that nobody sent.
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(code) || code.length % 4 !== 0)
    throw bad("code of format pickle is base64 text");
  return Buffer.from(code, "base64");
}

const IDENTIFIER = /^[\p{L}_$][\p{L}\p{N}_$]*(\.[\p{L}_$][\p{L}\p{N}_$]*)*$/u;

function entryOf(body: RegisterBody, format: "source" | "pickle"): string {
  if (body.runtime === "command" || format === "pickle") {
    if (body.entry !== undefined && body.entry !== "")
      throw bad(
        `entry is only for source code, not for ${body.runtime === "command" ? "commands" : "pickles"}`,
      );
    return "";
  }
  const entry = body.entry ?? body.name;
  if (!IDENTIFIER.test(entry) || entry.length > 256) {
    throw bad(
      `the entry ${quote(entry)} is not the name of a function; set entry to the one that the code defines`,
    );
  }
  return entry;
}

function envOf(body: RegisterBody): FunctionDefinition["env"] {
  const env = body.env ?? {};
  let size = 0;
  for (const [name, value] of Object.entries(env.vars ?? {})) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw bad(`env.vars has ${quote(name)}, which is no variable's name`);
    if (value.includes("\0")) throw bad(`env.vars.${name} contains a NUL character`);
    size += name.length + Buffer.byteLength(value);
  }
  if (size > MAX_ENV_BYTES) throw bad(`env.vars has ${size} bytes, at most ${MAX_ENV_BYTES}`);
  if (env.python !== undefined && !/^\d+\.\d+$/.test(env.python))
    throw bad(`env.python ${quote(env.python)} is no minor version such as 3.11`);
  for (const text of env.requires ?? [])
    if (parseRequirement(text) === undefined)
      throw bad(
        `env.requires has ${quote(text)}, which is no package as pip names them, such as numpy or numpy>=2`,
      );
  return env;
}

function resourcesOf(body: RegisterBody): FunctionDefinition["resources"] {
  const resources = body.resources ?? {};
  const { gpus = 0, nodes, ranks, ranksPerNode } = resources;
  if (gpus > 1 && !Number.isInteger(gpus))
    throw bad(`resources.gpus is ${gpus}; more than one GPU are whole ones`);
  if (nodes === undefined && (ranks !== undefined || ranksPerNode !== undefined))
    throw bad("resources.ranks and ranksPerNode go with resources.nodes");
  if (ranks !== undefined && ranksPerNode !== undefined && ranks !== ranksPerNode * nodes!)
    throw bad(
      `resources.ranks is ${ranks}, and ${nodes} nodes of ${ranksPerNode} ranks have ${ranksPerNode * nodes!}`,
    );
  if (ranks !== undefined && ranks < nodes!)
    throw bad(`resources.ranks is ${ranks}, less than one for each of the ${nodes} nodes`);
  return resources;
}

function commandOf(body: RegisterBody): NonNullable<FunctionDefinition["command"]> {
  const command = body.command!;
  if (body.runtime !== "command") throw bad(`command is only for runtime command, not for ${body.runtime}`);
  const texts = [...command.argv, command.stdin ?? "", ...(command.outputs ?? [])];
  const size = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  if (size > MAX_COMMAND_BYTES) throw bad(`the command has ${size} bytes, at most ${MAX_COMMAND_BYTES}`);
  if (command.argv.some((word) => word.includes("\0"))) throw bad("command.argv contains a NUL character");
  if (command.argv[0] === "") throw bad("command.argv[0], the program, is empty");
  for (const path of command.outputs ?? []) {
    if (path === "" || path.startsWith("/") || path.split("/").includes("..")) {
      throw bad(
        `command.outputs has ${quote(path)}; outputs are relative to the working directory and stay inside it`,
      );
    }
  }
  return command;
}

function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}

function bad(detail: string): FarloomError {
  return new FarloomError("FUNCTION_INVALID", { detail });
}
