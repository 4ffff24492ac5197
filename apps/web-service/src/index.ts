/** The web service as a library: for whoever starts it inside a process of their own. `main.ts` is the program. */
export { type Config, ConfigError, type ConfigOptions, resolveConfig } from "./config.js";
export { type RunningService, startService } from "./service.js";
