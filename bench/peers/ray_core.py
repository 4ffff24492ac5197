"""Ray core: GCS, raylet and two worker processes on loopback.

Settings, from Ray's documentation:
  ray.init(num_cpus=2), each task asks for one CPU (the default): two tasks at a time
  no dashboard, no usage report, no log forwarding
  one .remote() for each task, one ray.get on the list
"""

import os
import tempfile

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"

import ray

from measure import WORKERS, measure


@ray.remote
def noop():
    return None


@ray.remote
def identity(value):
    return value


@ray.remote
def sleep10():
    import time

    time.sleep(0.01)


def main():
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=1024 * 1024 * 1024,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.gettempdir(),
    )
    try:
        measure(
            "Ray",
            ray.__version__,
            "num_cpus=2",
            noop_batch=lambda n: ray.get([noop.remote() for _ in range(n)]),
            noop_one=lambda: ray.get(noop.remote()),
            sleep_batch=lambda n: ray.get([sleep10.remote() for _ in range(n)]),
            echo=lambda array: ray.get(identity.remote(array)),
            module="ray",
        )
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
