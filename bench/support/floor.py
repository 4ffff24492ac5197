"""What this machine can do at all: Python's own ProcessPoolExecutor with two processes, no service, no network.

Prints one line of JSON: no-ops per second in three batches of about a second, 500 round trips, and 10 ms sleeps as a
share of ideal, in the pool and in two bare loops that are given nothing: a sleep ends late by what the kernel takes
to wake a process. It is the short form of bench/peers/process_pool.py, measured in the same run so that ratios mean
something elsewhere.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor

WORKERS = 2
BATCHES = 3
BATCH_SECONDS = 1.0
CALLS = 500
SLEEPS = 200
SLEEP_SECONDS = 0.01


def noop():
    return None


def sleep():
    time.sleep(SLEEP_SECONDS)


def bare_loop():
    start = time.perf_counter()
    for _ in range(SLEEPS):
        time.sleep(SLEEP_SECONDS)
    return SLEEPS * SLEEP_SECONDS / (time.perf_counter() - start)


def batch_of_sleeps(pool):
    """Sleeps per second, both processes at it."""
    start = time.perf_counter()
    for future in [pool.submit(sleep) for _ in range(SLEEPS * WORKERS)]:
        future.result()
    return SLEEPS * WORKERS / (time.perf_counter() - start)


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
        pooled = SLEEP_SECONDS * batch_of_sleeps(pool) / WORKERS
        bare = min(one.result() for one in [pool.submit(bare_loop) for _ in range(WORKERS)])
    print(json.dumps({"rates": rates, "rtt_ms": calls, "sleep10_pool": pooled, "sleep10_bare": bare}))


if __name__ == "__main__":
    main()
