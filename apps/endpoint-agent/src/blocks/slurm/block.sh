#!/bin/sh
# The batch script of every block: always these bytes. What differs between blocks stands in options of sbatch and in
# the parameters file; no text of a user or a configuration is ever part of a script.
#
#   block.sh PROGRAM [ARGUMENT ...] PARAMETERS-FILE       what each node of the block runs

echo "farloom: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, begun anew ${SLURM_RESTART_COUNT:-0} times"

# One node: the batch step has all of it, and hears itself when the job is cancelled or its time is up.
[ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] || exec "$@"

# srun no longer takes this over from sbatch by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

# --overlap: steps that tasks start themselves, such as MPI, need not wait for this one to end.
# --no-kill: a node that dies takes no other with it (but the first, where this script runs).
# --wait=0, --kill-on-bad-exit=0: the nodes of a block end one by one, each when it has nothing left to do.
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --overlap --export=ALL --input=none --mpi=none \
  --cpu-bind=none --no-kill --wait=0 --kill-on-bad-exit=0 --label "$@"
