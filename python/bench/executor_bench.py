"""What the executor costs, as JSON: run it against FARLOOM_URL (with FARLOOM_API_KEY and FARLOOM_ENDPOINT) on a quiet
machine.

    python bench/executor_bench.py [--tasks 10000] [--calls 500] [--array-mb 100] [--rounds 5]

mapPerS        list(ex.map(noop, range(tasks))), the best of the rounds
clientUsPerTask   CPU time of this process for each of those tasks, microseconds
rttMs          one call at a time: p50 and p99
importMs       `import farloom` with its executor, in a process of its own, the best of five
arrayS         a numpy array there and back
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import farloom


def noop(value: Any) -> Any:
    return value


def map_rate(ex: farloom.Executor, tasks: int, rounds: int) -> dict[str, float]:
    best_s, cpu_us = float("inf"), 0.0
    for _ in range(rounds):
        started, cpu = time.perf_counter(), time.process_time()
        results = list(ex.map(noop, range(tasks)))
        took = time.perf_counter() - started
        used = time.process_time() - cpu
        assert results == list(range(tasks))
        if took < best_s:
            best_s, cpu_us = took, used / tasks * 1e6
    return {"mapPerS": round(tasks / best_s), "clientUsPerTask": round(cpu_us, 2)}


def round_trips(ex: farloom.Executor, calls: int) -> dict[str, float]:
    times = []
    for i in range(calls):
        started = time.perf_counter()
        ex.submit(noop, i).result()
        times.append((time.perf_counter() - started) * 1000)
    times.sort()
    return {"p50": round(times[len(times) // 2], 3), "p99": round(times[int(len(times) * 0.99)], 3)}


def import_ms() -> float:
    code = (
        "import time; t = time.perf_counter(); import farloom; farloom.Executor; print((time.perf_counter() - t) * 1e3)"
    )
    source = os.path.dirname(os.path.dirname(farloom.__file__))
    env = os.environ | {"PYTHONPATH": source}
    runs = [float(subprocess.check_output([sys.executable, "-c", code], env=env)) for _ in range(5)]
    return round(min(runs), 1)


def array_there_and_back(ex: farloom.Executor, size_mb: int, rounds: int) -> float | None:
    try:
        import numpy
    except ImportError:
        return None
    best_s = float("inf")
    for i in range(rounds):
        # Another one each time: what the service has already is not sent again.
        array = numpy.random.default_rng(time.time_ns() + i).random(size_mb * 1_000_000 // 8)
        started = time.perf_counter()
        back = ex.submit(noop, array).result()
        best_s = min(best_s, time.perf_counter() - started)
        assert numpy.array_equal(array, back)
    return round(best_s, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--array-mb", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with farloom.Executor() as ex:
        round_trips(ex, 50)
        report: dict[str, Any] = map_rate(ex, options.tasks, options.rounds)
        report["rttMs"] = round_trips(ex, options.calls)
        report["importMs"] = import_ms()
        if options.array_mb > 0:
            report["arrayMb"] = options.array_mb
            report["arrayS"] = array_there_and_back(ex, options.array_mb, min(3, options.rounds))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
