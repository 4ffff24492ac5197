"""Dask distributed: a scheduler and two worker processes of one thread each, over TCP on loopback.

Settings, from Dask's documentation:
  LocalCluster(n_workers=2, threads_per_worker=1, processes=True), no dashboard
  client.map over the batch with pure=False, or equal calls would be one task; client.gather for the results
  worker-saturation=32   tasks wait beside the workers; the default, 1.1, saves memory and gives about half the rate,
                         and inf was slower than 32 on the 10 ms workload
  key names are fixed by us, so the client does not spend its time on hashing arguments
"""

import itertools

import dask
import distributed
from distributed import Client, LocalCluster

from measure import WORKERS, measure

SATURATION = 32


def noop(_):
    return None


def identity(value):
    return value


def sleep10(_):
    import time

    time.sleep(0.01)


def main():
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": SATURATION}),
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        batches = itertools.count()

        def batch(function, n):
            client.gather(client.map(function, range(n), key=f"batch-{next(batches)}", pure=False))

        measure(
            "Dask",
            distributed.__version__,
            f"LocalCluster, 2 processes of 1 thread, worker-saturation {SATURATION}",
            noop_batch=lambda n: batch(noop, n),
            noop_one=lambda: client.submit(noop, 0, pure=False).result(),
            sleep_batch=lambda n: batch(sleep10, n),
            echo=lambda array: client.submit(identity, array, pure=False).result(),
            module="distributed",
        )


if __name__ == "__main__":
    main()
