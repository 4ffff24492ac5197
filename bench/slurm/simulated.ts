/**
 * Nodes that only pretend, for what no machine of a developer has: thousands of workers. Slurm's programs are scripts
 * that take every job and say that it runs; for each block this process dials the agent as its node would, over the same
 * TLS with the block's own secret, and answers each task with its arguments. The agent cannot tell.
 */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { readParameters } from "../../apps/endpoint-agent/src/blocks/parameters.js";
import { dialAgent } from "../../apps/endpoint-agent/src/node/dial.js";
import { Uplink } from "../../apps/endpoint-agent/src/node/uplink.js";
import { EchoNode } from "../../test/support/echo-node.js";

const SCRIPTS: Readonly<Record<string, string>> = {
  sbatch: `for option; do case $option in --job-name=*) name=\${option#*=};; esac; done
exec 9>>"$JOBS.lock"; flock 9
id=$(($(wc -l < "$JOBS") + 1)); echo "$id $name" >> "$JOBS"; echo "$id"`,
  squeue: `while read -r id name; do echo "$id|RUNNING|None|n1|0|0|$name|"; done < "$JOBS"`,
  scancel: `: > "$JOBS"`,
  scontrol: "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
  sacct: "echo 'Slurm accounting storage is disabled' >&2; exit 1",
};

/** A PATH on which Slurm's programs are those scripts. */
export class PretendedSlurm implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "farloom-pretended-"));
  readonly env: { readonly PATH: string; readonly JOBS: string; readonly SLURM_CONF: string };

  constructor() {
    const jobs = join(this.#folder, "jobs");
    const programs = join(this.#folder, "bin");
    writeFileSync(jobs, "");
    mkdirSync(programs);
    for (const [name, script] of Object.entries(SCRIPTS)) {
      writeFileSync(join(programs, name), `#!/bin/sh\n${script}\n`);
      chmodSync(join(programs, name), 0o755);
    }
    this.env = { PATH: `${programs}:${process.env.PATH}`, JOBS: jobs, SLURM_CONF: "/dev/null" };
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Beside the book of the blocks and the certificate of the agent's door. */
const NODE_PARAMETERS = /^b[0-9a-f]{16}\.json$/;

/** The nodes of all blocks that the agent of this folder has asked for. */
export class PretendedNodes {
  readonly #uplinks = new Map<string, Uplink>();
  readonly #stateDir: string;
  readonly #workers: number;

  constructor(stateDir: string, workers: number) {
    this.#stateDir = stateDir;
    this.#workers = workers;
  }

  get size(): number {
    return this.#uplinks.size;
  }

  /** A node for each block that has none yet. */
  async join(): Promise<void> {
    const folder = join(this.#stateDir, "blocks");
    for (const file of readdirSync(folder)) {
      if (!NODE_PARAMETERS.test(file) || this.#uplinks.has(file)) continue;
      const parameters = readParameters(join(folder, file));
      const { block, secret, addresses, fingerprint, giveUpMs } = parameters;
      const workers = this.#workers;
      const uplink = new Uplink({
        log: pino({ level: "silent" }),
        giveUpMs,
        dial: (signal) => dialAgent(addresses, fingerprint, signal),
        identity: () => ({
          versions: [1],
          caps: [],
          software: "pretended",
          block,
          node: "node0",
          restart: 0,
          token: Buffer.alloc(32, 1).toString("base64url"),
          secret,
          capacity: { places: workers, cores: workers, memoryMb: 64 * 1024, gpus: 0 },
        }),
        resume: () => [],
        onWelcome: () => undefined,
      });
      this.#uplinks.set(file, uplink);
      await new EchoNode(uplink, { creditTasks: workers }).start();
      void uplink.run();
    }
  }

  async close(): Promise<void> {
    for (const uplink of this.#uplinks.values()) await uplink.stop("the end of the measurement");
  }
}
