"""The three workloads every Python peer runs, so that all of them are measured by the same lines.

A peer hands over three functions; each returns only when all results are in the client:
  noop_batch(n)   n calls of a function that does nothing, submitted together
  noop_one()      one call of it
  sleep_batch(n)  n calls that sleep 10 ms
and, where it can, a fourth:
  echo(array)     one call with a numpy array of 100 MB, which comes back
measure.mjs is the same thing for peers on Node; the two must stay alike (README.md says what they do).
"""

import json
import math
import os
import subprocess
import sys
import time

BATCH_SECONDS = 3  # each of three batches, whatever the peer's speed
BATCHES = 3  # the best one counts: what else runs on the machine only ever makes a peer slower
MAX_BATCH = 200_000
CALLS = 300
SLEEPS = 400
SLEEP_SECONDS = 0.01
WORKERS = 2
ARRAY_BYTES = 100_000_000
ARRAYS = 5


def noop():
    return None


def identity(value):
    return value


def sleep10():
    time.sleep(SLEEP_SECONDS)


def _timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def _percentile(sorted_values, percent):
    """Nearest rank: a value that was measured, never one between two."""
    return sorted_values[max(0, math.ceil(percent / 100 * len(sorted_values)) - 1)]


def import_ms(module, path=None):
    """Milliseconds that `import module` takes in a process of its own: the best of five, the files being in memory."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    env = os.environ | ({"PYTHONPATH": path} if path else {})
    return round(min(float(subprocess.check_output([sys.executable, "-c", code], env=env)) for _ in range(5)), 1)


def _array_seconds(echo):
    """The best of some round trips of 100 MB, each with other bytes: a store may know what it has seen."""
    import numpy as np

    best = math.inf
    for turn in range(ARRAYS):
        array = np.arange(ARRAY_BYTES // 8, dtype=np.float64) + turn
        start = time.perf_counter()
        back = echo(array)
        best = min(best, time.perf_counter() - start)
        assert back.nbytes == ARRAY_BYTES and back[-1] == array[-1]
    return round(best, 3)


def measure(name, version, note, noop_batch, noop_one, sleep_batch, echo=None, durable=False, module=None, path=None):
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
        "durable": durable,
        "noop_per_s": round(noop_per_s, 1),
        "noop_batch": n,
        "rtt_ms": {f"p{p}": round(_percentile(calls, p), 3) for p in (50, 95, 99)},
        "sleep10_efficiency": round(efficiency, 4),
        "note": note,
    }
    if echo:
        result["array_s"] = _array_seconds(echo)
    if module:
        result["import_ms"] = import_ms(module, path)
    print(json.dumps(result), flush=True)
