"""What this machine can do at all: Python's own ProcessPoolExecutor with two processes, no service, no network.

Prints one line of JSON: no-ops per second in three batches of about a second, and 500 round trips. It is the
short form of bench/peers/process_pool.py, measured in the same run so that ratios mean something elsewhere.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor

WORKERS = 2
BATCHES = 3
BATCH_SECONDS = 1.0
CALLS = 500


def noop():
    return None


def main():
    with ProcessPoolExecutor(max_workers=WORKERS) as pool:

        def batch(n):
            start = time.perf_counter()
            for future in [pool.submit(noop) for _ in range(n)]:
                future.result()
            return n / (time.perf_counter() - start)

        def call():
            start = time.perf_counter()
            pool.submit(noop).result()
            return (time.perf_counter() - start) * 1000

        batch(100)
        n = max(100, int(batch(1000) * BATCH_SECONDS))
        rates = [batch(n) for _ in range(BATCHES)]
        calls = sorted(call() for _ in range(CALLS))
    print(json.dumps({"rates": rates, "rtt_ms": calls}))


if __name__ == "__main__":
    main()
