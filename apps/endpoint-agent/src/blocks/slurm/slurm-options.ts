/** The options of the provider `slurm`, under the names that Parsl and Globus Compute gave them. */
import { flag, list, memory, type OptionsOf, text, whole } from "../options.js";
import { refusedSchedulerOption } from "./scheduler-options.js";

const GPUS_FORM = "a number of GPUs, with their type where it matters: '4', 'a100:4'";

export const SLURM_OPTIONS = {
  partition: text(
    "Slurm partition, or several by comma (sbatch --partition). Absent: the cluster's default.",
  ),
  account: text("What is charged (sbatch --account)."),
  qos: text("Quality of service (sbatch --qos)."),
  constraint: text("Features that nodes must have (sbatch --constraint)."),
  coresPerNode: whole(
    "Cores of each node (sbatch --cpus-per-task). Absent: one for each worker.",
    1,
    4096,
    undefined,
  ),
  memPerNode: memory("Memory of each node (sbatch --mem). Absent: the cluster's default."),
  gpusPerNode: text("GPUs of each node (sbatch --gpus-per-node).", GPUS_FORM, /^(?:[\w.-]+:)?\d{1,4}$/),
  exclusive: flag("Whether nodes are shared with no other job (sbatch --exclusive)."),
  requeue: flag(
    "Whether Slurm begins a block anew after a node's failure or a preemption. By default the block ends, and the agent asks for another where there is work.",
  ),
  schedulerOptions: list(
    "More options of sbatch, one in each item, in the form --name=value or --name.",
    "one long option of sbatch such as '--reservation=school' that no other option here stands for",
    refusedSchedulerOption,
  ),
};

export type SlurmOptions = OptionsOf<typeof SLURM_OPTIONS>;
