/**
 * The environments that functions may name: tables `[environments.NAME]` of agent.toml, and, where the endpoint allows it,
 * texts of a function's own such as `conda:cfd`.
 */
import {
  list,
  OptionError,
  type OptionSpec,
  type OptionsOf,
  readOptions,
  text,
} from "../../blocks/options.js";

const RUNTIMES = ["apptainer", "singularity", "podman"] as const;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;
const MOST_ENVIRONMENTS = 64;
/** Longer scripts belong in a file that the lines name. */
const MAX_INIT_CHARS = 64 * 1024;
const ABSOLUTE = /^\//;
/** No option of a program, whatever stands before it. */
const PLAIN = /^[^-\s]/;

const ENVIRONMENT_OPTIONS = {
  python: text("The interpreter, a path or a name; in a container, there.", "a path or a name", PLAIN),
  venv: text("A virtual environment's folder.", "an absolute path", ABSOLUTE),
  conda: text("A conda environment, by name or folder.", "a name or an absolute path", PLAIN),
  modules: list("Modules that are loaded before.", "a module's name", (word) =>
    /^[\w][\w./+:-]*$/.test(word) ? undefined : "that is no module's name",
  ),
  workerInit: {
    help: "Lines of bash before the worker starts.",
    form: `text of at most ${MAX_INIT_CHARS} characters`,
    read: (value) =>
      typeof value === "string" && value.length <= MAX_INIT_CHARS && !value.includes("\0")
        ? value
        : undefined,
    fallback: { value: "" },
  } as OptionSpec<string>,
  container: text("An image that workers run in.", "an image", PLAIN),
  containerRuntime: {
    help: "What runs the image.",
    form: `one of ${RUNTIMES.join(", ")}`,
    read: (value) => RUNTIMES.find((runtime) => runtime === value),
    fallback: { value: "apptainer" },
  } as OptionSpec<(typeof RUNTIMES)[number]>,
  containerOptions: list("Further options of that program, such as --nv.", "an option", () => undefined),
} as const;

export type EnvironmentConfig = OptionsOf<typeof ENVIRONMENT_OPTIONS>;

export interface EnvironmentsConfig {
  readonly named: Readonly<Record<string, EnvironmentConfig>>;
  /** Whether functions may bring environments of their own. */
  readonly ofFunctions: boolean;
}

/** Reads `[environments.*]` and `function_environments`. Throws `OptionError`. */
export function readEnvironments(file: Readonly<Record<string, unknown>>): EnvironmentsConfig {
  const ofFunctions = file.function_environments ?? false;
  if (typeof ofFunctions !== "boolean")
    throw new OptionError("function_environments in agent.toml is not true or false");
  const tables = Object.entries(tableOf(file.environments ?? {}, "[environments] in agent.toml"));
  if (tables.length > MOST_ENVIRONMENTS)
    throw new OptionError(`agent.toml has ${tables.length} environments, at most ${MOST_ENVIRONMENTS}`);
  const named: Record<string, EnvironmentConfig> = {};
  for (const [name, given] of tables) {
    const where = `[environments.${name}] in agent.toml`;
    if (!NAME.test(name)) throw new OptionError(`${where}: a name has letters, digits and _ . - alone`);
    named[name] = checked(readOptions(ENVIRONMENT_OPTIONS, tableOf(given, where), where), where);
  }
  return Object.freeze({ named: Object.freeze(named), ofFunctions });
}

/**
 * The environment that a function's own text means: a path of an interpreter, `venv:PATH`, `conda:NAME`, `module:NAME NAME`,
 * `apptainer:IMAGE`, `podman:IMAGE`; undefined where it is a name. Throws `OptionError`.
 */
export function parseEnvironment(told: string): EnvironmentConfig | undefined {
  const [, scheme, rest = ""] = /^(venv|conda|module|apptainer|singularity|podman):(.+)$/.exec(told) ?? [];
  const where = `the environment ${JSON.stringify(told)}`;
  const read = (given: Record<string, unknown>) =>
    checked(readOptions(ENVIRONMENT_OPTIONS, given, where), where);
  if (told.startsWith("/")) return read({ python: told });
  switch (scheme) {
    case undefined:
      return undefined;
    case "venv":
    case "conda":
      return read({ [scheme]: rest });
    case "module":
      return read({ modules: rest.trim().split(/\s+/) });
    default:
      return read({ container: rest, container_runtime: scheme });
  }
}

function checked(config: EnvironmentConfig, where: string): EnvironmentConfig {
  const kinds = [config.venv, config.conda, config.container].filter((kind) => kind !== undefined);
  if (kinds.length > 1) throw new OptionError(`${where}: it is one of venv, conda and container`);
  return config;
}

function tableOf(value: unknown, where: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new OptionError(`${where} is not a table`);
  return value as Record<string, unknown>;
}
