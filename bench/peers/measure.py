"""The three workloads every Python peer runs, so that all of them are measured by the same lines.

A peer hands over three functions; each returns only when all results are in the client:
  noop_batch(n)   n calls of a function that does nothing, submitted together
  noop_one()      one call of it
  sleep_batch(n)  n calls that sleep 10 ms
measure.mjs is the same thing for peers on Node; the two must stay alike (README.md says what they do).
"""

import json
import math
import time

BATCH_SECONDS = 3  # each of three batches, whatever the peer's speed
BATCHES = 3  # the best one counts: what else runs on the machine only ever makes a peer slower
MAX_BATCH = 200_000
CALLS = 300
SLEEPS = 400
SLEEP_SECONDS = 0.01
WORKERS = 2


def noop():
    return None


def sleep10():
    time.sleep(SLEEP_SECONDS)


def _timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def _percentile(sorted_values, percent):
    """Nearest rank: a value that was measured, never one between two."""
    return sorted_values[max(0, math.ceil(percent / 100 * len(sorted_values)) - 1)]


def measure(name, version, note, noop_batch, noop_one, sleep_batch):
    """Warms the peer up, runs the workloads and prints the result as the last line of stdout."""
    noop_batch(100)  # not timed: the peer may still be starting its workers
    n = 100
    while True:  # warm up, and learn the speed on the way
        took = _timed(noop_batch, n)
        if took >= BATCH_SECONDS / 3 or n >= MAX_BATCH:
            break
        n = min(n * 4, MAX_BATCH)
    n = max(100, min(MAX_BATCH, round(n / took * BATCH_SECONDS)))
    noop_per_s = max(n / _timed(noop_batch, n) for _ in range(BATCHES))

    for _ in range(50):
        noop_one()
    calls = sorted(_timed(noop_one) * 1000 for _ in range(CALLS))

    sleep_batch(20)
    ideal = SLEEPS * SLEEP_SECONDS / WORKERS
    efficiency = max(ideal / _timed(sleep_batch, SLEEPS) for _ in range(BATCHES))

    result = {
        "name": name,
        "version": version,
        "durable": False,
        "noop_per_s": round(noop_per_s, 1),
        "noop_batch": n,
        "rtt_ms": {f"p{p}": round(_percentile(calls, p), 3) for p in (50, 95, 99)},
        "sleep10_efficiency": round(efficiency, 4),
        "note": note,
    }
    print(json.dumps(result), flush=True)
