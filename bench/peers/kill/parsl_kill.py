"""Kill tests of Parsl's HighThroughputExecutor: client, interchange, manager and two workers on loopback.
  LocalProvider, one block, strategy "simple" (the default): a block that is gone is replaced
  retries=0, the default: a task whose worker or manager was lost fails, and says so
  encrypted=False, usage_tracking=0: nothing sent anywhere
Killed: worker, the process that runs a task; executor, the manager of the node (process_worker_pool.py); broker, the
interchange; client, after all its calls have returned: the futures were in it, and no other process can ask for them
(checkpointing would keep the results of finished tasks for a second run of the same program).
"""

import os
import sys
import time

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

import kill_common as common


@parsl.python_app
def work(n, path):
    import kill_common

    return kill_common.work(n, path)


def load(folder):
    executor = HighThroughputExecutor(
        label="htex",
        address="127.0.0.1",
        loopback_address="127.0.0.1",
        max_workers_per_node=common.WORKERS,
        encrypted=False,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    return parsl.load(Config(executors=[executor], run_dir=os.path.join(folder, "runinfo"), usage_tracking=0))


def submit(folder):
    evidence = os.path.join(folder, "evidence")
    futures = {n: work(n, evidence) for n in range(common.TASKS)}
    common.write_acks(folder, ((n, future.tid) for n, future in futures.items()))
    return futures


def collect(futures):
    outcomes = {}
    while common.left() > 0 and len(outcomes) < len(futures):
        for n in futures.keys() - outcomes.keys():
            if futures[n].done():
                error = futures[n].exception()
                outcomes[n] = ("failed", type(error).__name__) if error else ("result", futures[n].result())
        time.sleep(0.2)
    return outcomes


def main(part, folder):
    evidence = os.path.join(folder, "evidence")
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    if part == "client":
        process = common.start_client(__file__, folder)
    else:
        load(folder)
        futures = submit(folder)
    common.wait_for_starts(evidence)
    outcomes = {}
    if part == "worker":
        common.kill(common.running_pid(evidence))
    elif part == "executor":
        for pid in common.children_named(["process_worker_pool"])[:1]:
            common.kill(pid)
    elif part == "broker":
        for pid in common.children_named(["interchange"])[:1]:
            common.kill(pid)
    else:
        common.kill(process.pid)
        time.sleep(3)
    if part != "client":
        outcomes = collect(futures)
    common.report(parsl.__version__, evidence, len(common.acks(folder)), outcomes)


if __name__ == "__main__":
    if sys.argv[1] == "as-client":
        load(sys.argv[2])
        kept = submit(sys.argv[2])
        time.sleep(1000)
    else:
        main(sys.argv[1], sys.argv[2])
