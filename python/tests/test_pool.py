"""`farloom.Pool` beside the standard library's own: the same program, run with both, sees the same."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom

MakePool = Callable[[], Any]


@pytest.fixture(params=["standard", "farloom"])
def make_pool(request: pytest.FixtureRequest, fabric: Fabric) -> MakePool:
    return farloom.Pool if request.param == "farloom" else lambda: multiprocessing.pool.ThreadPool(2)


def failing_at(last: int) -> Iterator[int]:
    yield from range(last)
    raise LookupError("the input is broken")


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the type and the words of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error).__mro__[-3].__name__, type(error).__name__, str(error)


def program(pool: Any) -> list[Any]:
    """Uses everything; gives what can be compared."""
    told: list[Any] = []
    seen: list[Any] = [
        pool.apply(calls.add, (1,), {"b": 2, "c": 3}),
        pool.map(calls.echo, range(1000)),
        pool.map(calls.echo, iter("abc"), chunksize=2),
        pool.map(calls.echo, []),
        pool.starmap(calls.add, [(1, 2), [3, 4], (5,)]),
        pool.starmap(calls.add, zip(range(100), range(100), strict=True), 7),
        list(pool.imap(calls.echo, range(50))),
        list(pool.imap(calls.echo, range(50), 8)),
        sorted(pool.imap_unordered(calls.echo, range(50))),
        sorted(pool.imap_unordered(calls.echo, range(50), 8)),
        outcome(lambda: pool.apply(calls.fail, ("applied",))),
        outcome(lambda: pool.map(calls.fail, ["mapped"])),
        outcome(lambda: pool.starmap(calls.fail, [("one", "too many")])),
        outcome(lambda: pool.imap(calls.echo, [1], 0)),
        outcome(lambda: list(pool.imap(calls.echo, failing_at(3)))),
        outcome(lambda: pool.map(calls.echo, failing_at(3))),
    ]
    # A failure in an iterator is that item's; the others come all the same.
    results = pool.imap(calls.add, [1, "x", 3])
    seen += [outcome(lambda: next(results)) for _ in range(4)]

    good = pool.apply_async(calls.echo, (7,), callback=lambda value: told.append(("value", value)))
    bad = pool.apply_async(calls.fail, ("alone",), error_callback=lambda error: told.append(("error", repr(error))))
    seen += [good.get(30), outcome(lambda: bad.get(30))]
    for result in (good, bad):
        result.wait(30)
        seen += [result.ready(), result.successful()]
    both = pool.map_async(calls.echo, [1, 2], 1, lambda value: told.append(value), lambda error: told.append(error))
    seen += [both.get(30), pool.starmap_async(calls.add, [(1, 2)]).get(timeout=30)]
    failing = pool.map_async(calls.fail, ["listed"], error_callback=lambda error: told.append(repr(error)))
    seen += [outcome(failing.get), failing.successful()]

    slow = pool.apply_async(calls.nap, (1.5,))
    try:
        slow.get(timeout=0.1)
    except multiprocessing.TimeoutError as error:
        seen.append(repr(error))
    try:
        slow.successful()
    except ValueError as error:
        seen.append(str(error).endswith("not ready"))
    seen += [slow.ready(), slow.get(30)]
    napping = pool.imap_unordered(calls.nap, [1])
    with pytest.raises(multiprocessing.TimeoutError):
        napping.next(timeout=0.05)
    seen.append(napping.next(30))

    seen += [outcome(pool.join), outcome(lambda: pickle.dumps(pool))]
    last = pool.map_async(calls.echo, range(10))
    pool.close()
    seen.append(outcome(lambda: pool.apply(calls.echo, (1,))))
    pool.join()
    seen += [last.ready(), last.get(), sorted(told, key=repr)]
    return seen


def test_a_program_sees_the_same_with_a_pool_of_threads_and_with_an_endpoint(fabric: Fabric) -> None:
    with multiprocessing.pool.ThreadPool(2) as here, farloom.Pool() as there:
        for number, (expected, found) in enumerate(zip(program(here), program(there), strict=True)):
            assert found == expected, number


def test_leaving_a_pool_ends_it(make_pool: MakePool) -> None:
    with make_pool() as pool:
        assert pool.map(calls.echo, [1]) == [1]
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(calls.echo, (1,))
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass
    pool.join()


def test_terminate_stops_what_runs_and_what_waits(fabric: Fabric) -> None:
    pool = farloom.Pool()
    running = [pool.apply_async(calls.nap, (60,)) for _ in range(6)]
    stream = pool.imap_unordered(calls.nap, [60] * 3)
    time.sleep(1)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 20
    for result in running:
        with pytest.raises((farloom.TaskCancelledError, CancelledError)):
            result.get(0)
    with pytest.raises((farloom.TaskCancelledError, CancelledError)):
        next(stream)
    with farloom.Executor() as ex:
        assert ex.submit(calls.echo, 1).result(30) == 1


def test_an_iterator_reads_its_input_as_results_are_taken(fabric: Fabric) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    with farloom.Pool() as pool:
        results = pool.imap(calls.echo, endless(), chunksize=100)
        assert [next(results) for _ in range(250)] == list(range(1, 251))
        assert read < 40_000


def test_an_initializer_runs_once_in_each_worker_before_the_first_call(fabric: Fabric) -> None:
    counts: dict[str, int] = {}

    def begin(start: int) -> None:
        counts["begun"] = counts.get("begun", start) + 1

    def look(_: int) -> tuple[int, int]:
        import os

        return os.getpid(), counts["begun"]

    with farloom.Pool(2, begin, (10,)) as pool:
        seen = set(pool.map(look, range(40), chunksize=1))
        assert {begun for _, begun in seen} == {11}
        assert len(seen) == len({pid for pid, _ in seen})


def test_arguments_of_a_pool_are_checked(fabric: Fabric) -> None:
    with pytest.raises(ValueError, match="Number of processes must be at least 1"):
        farloom.Pool(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        farloom.Pool(1, "no")  # type: ignore[arg-type]
    with farloom.Pool() as pool, pytest.raises(ValueError, match=r"Chunksize must be 1\+, not 0"):
        pool.map(calls.echo, [1], 0)
    with farloom.Executor() as executor:
        with pytest.raises(TypeError, match="give an executor, or"):
            farloom.Pool(executor=executor, endpoint="main")
        with farloom.Pool(executor=executor) as pool:
            assert pool.apply(calls.echo, (1,)) == 1
        assert executor.submit(calls.echo, 2).result(30) == 2
    ended = threading.Event()
    pool = farloom.Pool(cores=1)
    pool.apply_async(calls.echo, (1,), callback=lambda _: ended.set())
    assert ended.wait(30)
    pool.terminate()
