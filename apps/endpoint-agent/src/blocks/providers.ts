/** The providers by name. Another one is a line here, and a folder beside. */
import type { Logger } from "pino";
import { ProcessProvider } from "./process/process-provider.js";
import type { Provider } from "./provider.js";

export interface ProviderPlace {
  /** The provider's own table of agent.toml, as it stands there. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly endpointId: string;
  /** A folder of the agent for the blocks' logs, readable by nobody else. */
  readonly logDir: string;
  readonly log: Logger;
}

const PROVIDERS: Readonly<Record<string, (place: ProviderPlace) => Provider>> = {
  process: ({ logDir }) => new ProcessProvider({ logDir }),
};

/** Throws for a name that there is not. */
export function makeProvider(name: string, place: ProviderPlace): Provider {
  const make = Object.hasOwn(PROVIDERS, name) ? PROVIDERS[name] : undefined;
  if (make === undefined) {
    const names = ["local", ...Object.keys(PROVIDERS)].join(", ");
    throw new Error(`provider in agent.toml is '${name}'; there are ${names}`);
  }
  return make(place);
}
