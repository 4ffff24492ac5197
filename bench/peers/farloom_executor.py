"""Farloom through its Python package: farloom.Executor, an embedded service and an agent with two workers on loopback.

Settings: everything as it comes. The batch is `list(executor.map(noop, range(n)))`, one call is `submit(…).result()`.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = str(ROOT / "python/src")
sys.path[:0] = [SOURCE, str(ROOT / "python/tests")]

import os

from fabric import Fabric
from measure import measure


def noop(_):
    return None


def sleep10(_):
    import time

    time.sleep(0.01)


def identity(value):
    return value


def main():
    import farloom

    fabric = Fabric().start()
    try:
        os.environ |= {
            "FARLOOM_URL": fabric.url,
            "FARLOOM_API_KEY": fabric.key,
            "FARLOOM_ENDPOINT": "main",
            "FARLOOM_CONFIG": str(Path(tempfile.gettempdir()) / "none.json"),
        }
        with farloom.Executor() as executor:

            def batch(function, n):
                for _ in executor.map(function, range(n)):
                    pass

            measure(
                "Farloom, Python",
                farloom.__version__,
                "every task and result committed in PostgreSQL; executor.map",
                noop_batch=lambda n: batch(noop, n),
                noop_one=lambda: executor.submit(noop, 0).result(),
                sleep_batch=lambda n: batch(sleep10, n),
                echo=lambda array: executor.submit(identity, array).result(),
                durable=True,
                module="farloom",
                path=SOURCE,
            )
    finally:
        fabric.close()


if __name__ == "__main__":
    main()
