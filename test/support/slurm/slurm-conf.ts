/** The configuration of a test's cluster: quick reactions, no accounting, nothing outside of its folder. */

export interface SlurmConf {
  readonly home: string;
  /** This machine's short name: slurmctld starts on no other. */
  readonly host: string;
  readonly user: string;
  readonly controllerPort: number;
  readonly nodes: readonly { readonly name: string; readonly port: number }[];
  readonly cores: number;
}

/** Partitions: main; short, with a limit of one minute; scavenge, whose jobs give way to the others. */
export function slurmConf({ home, host, user, controllerPort, nodes, cores }: SlurmConf): string {
  return `ClusterName=farloomtest
SlurmctldHost=${host}(127.0.0.1)
SlurmctldPort=${controllerPort}
SlurmUser=${user}
SlurmdUser=${user}
AuthType=auth/munge
# A requeued job waits until its old credential has expired; five seconds are the least.
AuthInfo=socket=${home}/munge/socket,cred_expire=5
SlurmctldPidFile=${home}/slurmctld.pid
SlurmdPidFile=${home}/slurmd-%n.pid
SlurmctldLogFile=${home}/slurmctld.log
SlurmdLogFile=${home}/%n.log
StateSaveLocation=${home}/state
SlurmdSpoolDir=${home}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# The nodes are what the configuration says, whatever this machine is.
SlurmdParameters=config_overrides
# A node that was silent comes back by itself.
ReturnToService=1
PropagateResourceLimits=NONE
KillWait=2
MessageTimeout=3
SlurmdTimeout=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
${nodes.map(({ name, port }) => `NodeName=${name} NodeHostname=${host} NodeAddr=127.0.0.1 Port=${port} CPUs=${cores} RealMemory=4000`).join("\n")}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=1 DefaultTime=1 PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=60 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE
`;
}
