/**
 * The providers by name, with the options of each. Another one is a folder beside `slurm/` and an entry here; nothing else
 * knows which there are.
 */
import type { Logger } from "pino";
import { OptionError, type OptionsOf, type OptionTable, readOptions } from "./options.js";
import { ProcessProvider } from "./process/process-provider.js";
import type { Provider } from "./provider.js";
import { SLURM_OPTIONS } from "./slurm/slurm-options.js";
import { SlurmProvider } from "./slurm/slurm-provider.js";
import { SSH_OPTIONS } from "./ssh/ssh-options.js";
import { SshProvider } from "./ssh/ssh-provider.js";

export interface ProviderPlace {
  /** The provider's own table of agent.toml, as it stands there. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly endpointId: string;
  /** A folder of the agent for the blocks' logs, readable by nobody else; a batch system's nodes see it as well. */
  readonly logDir: string;
  readonly log: Logger;
}

interface Entry {
  readonly options: OptionTable;
  /** Throws `OptionError` for options that are wrong; `where` is for its words. */
  readonly make: (place: ProviderPlace, where: string) => Provider;
}

/** Holds the types of a table and of what is made from it together. */
function entry<T extends OptionTable>(
  options: T,
  make: (options: OptionsOf<T>, place: ProviderPlace) => Provider,
): Entry {
  return { options, make: (place, where) => make(readOptions(options, place.options, where), place) };
}

/** Without `local`, whose only node lives in the agent's own process. */
export const PROVIDERS: Readonly<Record<string, Entry>> = {
  process: entry({}, (_options, { logDir }) => new ProcessProvider({ logDir })),
  slurm: entry(SLURM_OPTIONS, (options, { endpointId, logDir, log }) => {
    return new SlurmProvider({ options, endpointId, logDir, log });
  }),
  ssh: entry(SSH_OPTIONS, (options, { logDir }) => new SshProvider({ options, logDir })),
};

/** Throws `OptionError` for a name that there is not, and for options that are wrong; makes nothing. */
export function checkProvider(name: string, options: Readonly<Record<string, unknown>>): void {
  readOptions(entryOf(name).options, options, `[${name}] in agent.toml`);
}

/** The provider of that name. Throws `OptionError` for a name that there is not, and for options that are wrong. */
export function makeProvider(name: string, place: ProviderPlace): Provider {
  return entryOf(name).make(place, `[${name}] in agent.toml`);
}

function entryOf(name: string): Entry {
  const known = Object.hasOwn(PROVIDERS, name) ? PROVIDERS[name] : undefined;
  if (known === undefined) {
    const names = ["local", ...Object.keys(PROVIDERS)].join(", ");
    throw new OptionError(`provider in agent.toml is '${name}'; there are ${names}`);
  }
  return known;
}
