"""Kill tests of Dask distributed, deployed by its command line as its documentation says: `dask scheduler`, and
`dask worker --nworkers 2 --nthreads 1` with nannies, which is the default: a worker that dies is started again.
  distributed.scheduler.allowed-failures=3   the default: a task is tried again when its worker died
  client.submit(pure=False) with keys of our own, all futures kept until their results are there
Killed: worker, the process that runs a task; executor, the scheduler, which is started again on its port (it keeps
nothing on disk, and documents that); client, after all its submit() have returned: another client asks for the
futures by their keys. A client's death releases its futures; publish_dataset would have kept them.
"""

import os
import sys
import threading
import time

import distributed
from distributed import Client, Future

import kill_common as common


def start_scheduler(port):
    args = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port)]
    scheduler = common.start([*args, "--no-dashboard"])
    common.wait_for_port(port)
    return scheduler


def start_workers(port, folder):
    args = [sys.executable, "-m", "dask", "worker", f"tcp://127.0.0.1:{port}", "--nworkers", str(common.WORKERS)]
    common.start([*args, "--nthreads", "1", "--no-dashboard", "--local-directory", folder])


def submit(client, folder):
    evidence = os.path.join(folder, "evidence")
    futures = {
        n: client.submit(common.work, n, evidence, key=f"task-{n}", pure=False) for n in range(common.TASKS)
    }
    common.write_acks(folder, ((n, future.key) for n, future in futures.items()))
    return futures


def collect(futures, outcomes):
    """Takes every result as soon as it is there, as as_completed(with_results=True) does."""
    while len(outcomes) < len(futures):
        for n in futures.keys() - outcomes.keys():
            future = futures[n]
            try:
                if future.status == "finished":
                    outcomes[n] = ("result", future.result(timeout=5))
                elif future.status == "error":
                    outcomes[n] = ("failed", type(future.exception(timeout=5)).__name__)
            except Exception:  # the scheduler is away: asked again
                break
        time.sleep(0.1)


def wait_for(futures, outcomes, seconds):
    """A future that a scheduler has forgotten never ends: hence `seconds`."""
    end = time.monotonic() + min(seconds, common.left())
    while time.monotonic() < end and len(outcomes) < len(futures):
        time.sleep(0.1)


def main(part, folder):
    evidence = os.path.join(folder, "evidence")
    port = common.free_port()
    os.environ["KILL_PORT"] = str(port)
    scheduler = start_scheduler(port)
    start_workers(port, folder)
    outcomes = {}
    if part == "client":
        process = common.start_client(__file__, folder)
    else:
        client = Client(f"tcp://127.0.0.1:{port}")
        client.wait_for_workers(common.WORKERS)
        futures = submit(client, folder)
        threading.Thread(target=collect, args=(futures, outcomes), daemon=True).start()
    common.wait_for_starts(evidence)
    if part == "worker":
        common.kill(common.running_pid(evidence))
    elif part == "executor":
        common.kill(scheduler.pid)
        time.sleep(0.5)
        start_scheduler(port)
        start_workers(port, folder)
    else:
        common.kill(process.pid)
        time.sleep(1)
        client = Client(f"tcp://127.0.0.1:{port}")
        futures = {n: Future(key, client=client) for n, key in common.acks(folder).items()}
        threading.Thread(target=collect, args=(futures, outcomes), daemon=True).start()
    # A worker's death is mended, however long it takes; what a scheduler has forgotten is not.
    wait_for(futures, outcomes, common.DEADLINE_SECONDS * (1 if part == "worker" else 0.5))
    common.report(distributed.__version__, evidence, len(common.acks(folder)), dict(outcomes))


if __name__ == "__main__":
    if sys.argv[1] == "as-client":
        with Client(f"tcp://127.0.0.1:{os.environ['KILL_PORT']}") as own:
            own.wait_for_workers(common.WORKERS)
            kept = submit(own, sys.argv[2])
            time.sleep(1000)
    else:
        main(sys.argv[1], sys.argv[2])
