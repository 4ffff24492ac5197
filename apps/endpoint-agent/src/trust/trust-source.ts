/**
 * Where trust comes from: trust.toml, read again when it changes, and the mode in force (T1). A file that cannot be used
 * trusts nobody: `problem` says why.
 *
 * The mode is what `--trust` or FARLOOM_AGENT_TRUST says, then what the file says, then what follows from the
 * configuration: enforce where others' work is to be expected (`shared`, `commands`, a provider of blocks), else off.
 */
import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import { NO_TRUST, readTrust, type Trust, type TrustMode } from "./trust-file.js";

/** An editor writes in steps: what comes within so long is one change. */
const SETTLE_MS = 50;

/** What the configuration says of trust. */
export interface TrustConfig {
  /** Said for this start alone; before the file. */
  readonly mode: TrustMode | undefined;
  /** Where nobody says anything. */
  readonly byDefault: "enforce" | "off";
}

export class TrustSource {
  readonly #path: string;
  readonly #config: TrustConfig;
  #trust: Trust = NO_TRUST;
  #problem: string | undefined;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  onChange: () => void = () => undefined;

  /** Reads the file and watches it. Throws an Error where it cannot be used: an agent does not start over that. */
  constructor(path: string, config: TrustConfig) {
    this.#path = path;
    this.#config = config;
    this.#trust = readTrust(path);
    this.#watcher = watch(dirname(path), { persistent: false }, (_event, name) => {
      if (name !== null && name !== basename(path)) return;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.reload(), SETTLE_MS);
      this.#timer.unref();
    });
    // On a file system that tells of no changes, SIGHUP does.
    this.#watcher.on("error", () => this.#watcher?.close());
  }

  get trust(): Trust {
    return this.#trust;
  }

  get mode(): TrustMode {
    return this.#config.mode ?? this.#trust.mode ?? this.#config.byDefault;
  }

  /** Why nothing is trusted; undefined where the file is in order. */
  get problem(): string | undefined {
    return this.#problem;
  }

  reload(): void {
    try {
      this.#trust = readTrust(this.#path);
      this.#problem = undefined;
    } catch (error) {
      // The mode of the last good file stays: a broken one must not switch anything off.
      this.#trust = { ...NO_TRUST, mode: this.#trust.mode };
      this.#problem = (error as Error).message;
    }
    this.onChange();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}
