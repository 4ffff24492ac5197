"""Parsl's HighThroughputExecutor: client, interchange, manager and two workers on loopback.

Settings, all documented by Parsl:
  max_workers_per_node=2   two workers
  LocalProvider, one block that is there from the start, strategy="none": no scaling during the measurement
  address, loopback_address 127.0.0.1
  encrypted=False          no CurveZMQ on loopback; it only costs
  prefetch_capacity=512    tasks wait beside the workers; the default, 0, gives about half the rate
  initialize_logging=False, usage_tracking=0   no log for each task, nothing sent anywhere
Tasks are python_app calls, as a user writes them; all futures are asked for their result.
"""

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from measure import WORKERS, measure

PREFETCH = 512


@parsl.python_app
def noop():
    return None


@parsl.python_app
def identity(value):
    return value


@parsl.python_app
def sleep10():
    import time

    time.sleep(0.01)


def main():
    config = Config(
        executors=[
            HighThroughputExecutor(
                label="htex",
                address="127.0.0.1",
                loopback_address="127.0.0.1",
                max_workers_per_node=WORKERS,
                prefetch_capacity=PREFETCH,
                encrypted=False,
                provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
            )
        ],
        strategy="none",
        initialize_logging=False,
        usage_tracking=0,
    )
    with parsl.load(config):

        def batch(app, n):
            for future in [app() for _ in range(n)]:
                future.result()

        measure(
            "Parsl",
            parsl.__version__,
            f"HighThroughputExecutor, 2 workers, prefetch {PREFETCH}",
            noop_batch=lambda n: batch(noop, n),
            noop_one=lambda: noop().result(),
            sleep_batch=lambda n: batch(sleep10, n),
            echo=lambda array: identity(array).result(),
            module="parsl",
        )


if __name__ == "__main__":
    main()
