/**
 * Which options of sbatch a configuration may add. Sites have options of their own (Slurm's plugins bring them), so
 * what is refused is listed, not what is allowed.
 *
 * sbatch takes any beginning of an option's name for the option, so a beginning of a refused name is refused as well.
 */

/** What the provider sets itself, with the option to use instead, and what would make another kind of job of a block. */
const REFUSED: Readonly<Record<string, string>> = {
  partition: "use the option partition",
  account: "use the option account",
  qos: "use the option qos",
  constraint: "use the option constraint",
  nodes: "use nodes_per_block in [blocks]",
  time: "use walltime_seconds in [blocks]",
  "cpus-per-task": "use the option cores_per_node",
  mem: "use the option mem_per_node",
  "gpus-per-node": "use the option gpus_per_node",
  exclusive: "use the option exclusive",
  requeue: "use the option requeue",
  "no-requeue": "use the option requeue",
  ntasks: "a node has one task, the node program",
  "ntasks-per-node": "a node has one task, the node program",
  "job-name": "blocks are found by their names",
  output: "the block's log has its place",
  error: "the block's log has its place",
  "open-mode": "the block's log has its place",
  input: "a block reads no input",
  chdir: "a block starts in the folder of its log",
  export: "the environment of a block is the agent's",
  "export-file": "the environment of a block is the agent's",
  clusters: "an endpoint has one cluster: start another agent there",
  array: "a block is one job",
  wrap: "the batch script is always the same",
  wait: "sbatch returns at once",
  "test-only": "nothing would be submitted",
  parsable: "the agent reads what sbatch prints",
  quiet: "the agent reads what sbatch prints",
  verbose: "the agent reads what sbatch prints",
  help: "nothing would be submitted",
  usage: "nothing would be submitted",
  version: "nothing would be submitted",
  signal: "the agent ends a block's work before its walltime",
  uid: "blocks belong to who runs the agent",
  gid: "blocks belong to who runs the agent",
};

/** Why an option is not taken, or undefined where it is. */
export function refusedSchedulerOption(item: string): string | undefined {
  const name = /^--([a-z][a-z0-9-]*)(?:=|$)/.exec(item)?.[1];
  if (name === undefined) {
    return "write it as --name=value or --name, without '#SBATCH' and without quotes";
  }
  const own = REFUSED[name];
  if (own !== undefined) return own;
  const meant = Object.keys(REFUSED).find((refused) => refused.startsWith(name));
  return meant === undefined ? undefined : `sbatch may read it as --${meant}: write the name in full`;
}
