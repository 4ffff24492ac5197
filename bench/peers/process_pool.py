"""Python's own ProcessPoolExecutor: the floor. Two processes of the same machine, a pipe, no service, no network.

Settings: max_workers=2, everything else as it comes. One submit for each task, as a user of the executor writes it.
"""

import platform
from concurrent.futures import ProcessPoolExecutor

from measure import WORKERS, identity, measure, noop, sleep10


def main():
    with ProcessPoolExecutor(max_workers=WORKERS) as pool:

        def batch(function, n):
            for future in [pool.submit(function) for _ in range(n)]:
                future.result()

        measure(
            "ProcessPoolExecutor",
            f"Python {platform.python_version()}",
            "2 processes",
            noop_batch=lambda n: batch(noop, n),
            noop_one=lambda: pool.submit(noop).result(),
            sleep_batch=lambda n: batch(sleep10, n),
            echo=lambda array: pool.submit(identity, array).result(),
            module="concurrent.futures.process",
        )


if __name__ == "__main__":
    main()
