"""map_reduce and tree_reduce: as functools.reduce, in order, bounded, and over with the first failure."""

from __future__ import annotations

import concurrent.futures
import functools
import operator
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom


@pytest.fixture(scope="module")
def pool() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.mark.parametrize("fan_in", [2, 3, 8])
@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 64, 65, 200])
def test_it_is_what_functools_reduce_gives_in_order(
    pool: concurrent.futures.Executor, n: int, fan_in: int, chunksize: int
) -> None:
    def told(i: int) -> str:
        time.sleep(random.random() / 2000)
        return f"{i} "

    def join(a: str, b: str) -> str:
        return a + b

    want = functools.reduce(join, map(told, range(n)))
    got = farloom.map_reduce(pool, told, range(n), join, fan_in=fan_in, chunksize=chunksize, window=7)
    assert got == want
    assert farloom.tree_reduce(pool, join, map(told, range(n)), fan_in=fan_in, initial="> ") == "> " + want


def test_no_items_give_the_initial_value_and_none_raises() -> None:
    pool: Any = concurrent.futures.ThreadPoolExecutor(1)
    assert farloom.tree_reduce(pool, operator.add, [], initial=5) == 5
    with pytest.raises(TypeError):
        farloom.map_reduce(pool, abs, [], operator.add)


def test_input_is_read_as_it_is_taken_and_no_more_calls_are_open_than_the_window(
    pool: concurrent.futures.Executor,
) -> None:
    lock = threading.Lock()
    count = most = 0

    def begin(i: int) -> int:
        return i

    class Counting(concurrent.futures.Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
            nonlocal count, most
            with lock:
                count += 1
                most = max(most, count)
            future = pool.submit(fn, *args, **kwargs)
            future.add_done_callback(ended)
            return future

    def ended(_: Any) -> None:
        nonlocal count
        with lock:
            count -= 1

    assert farloom.map_reduce(Counting(), begin, iter(range(5000)), operator.add, window=10) == 12497500
    # The reducing call of what has just ended goes out before the next leaf is counted.
    assert most <= 11


def test_the_first_failure_ends_it_with_its_cause_and_cancels_the_rest(fabric: Fabric) -> None:
    def fail_at(i: int) -> int:
        import time

        if i % 20 == 3:
            raise KeyError(f"no {i}")
        time.sleep(1)
        return i

    with farloom.Executor() as ex:
        began = time.monotonic()
        with pytest.raises(KeyError, match=r"no \d*3") as caught:
            farloom.map_reduce(ex, fail_at, range(60), operator.add)
        assert type(caught.value.__cause__) is farloom.RemoteTraceback
        number = str(caught.value).strip("'").removeprefix("no ")
        assert getattr(caught.value, "__notes__", [f"item {number}"])[0].endswith(f"item {number}")
        group = ex.task_group_id
    # All of them would take half a minute on two workers.
    assert time.monotonic() - began < 25
    states = farloom.attach(group).counts()
    assert states["FAILED"] >= 1 and states["CANCELLED"] >= 10


def test_time_that_is_over_ends_it(fabric: Fabric) -> None:
    with farloom.Executor() as ex, pytest.raises(TimeoutError):
        farloom.map_reduce(ex, calls.nap, [60] * 3, operator.add, timeout=0.5)


def test_on_an_endpoint_both_are_shipped_as_any_function_is(fabric: Fabric) -> None:
    weight = 3

    def weigh(x: int) -> int:
        return weight * x

    def plus(a: int, b: int) -> int:
        return a + b

    with farloom.Executor() as ex:
        for chunksize in (1, 16):
            assert farloom.map_reduce(ex, weigh, range(100), plus, chunksize=chunksize) == 14850
        assert farloom.map_reduce(ex, abs, range(-20, 0), max, chunksize=7) == 20
        futures = [ex.submit(calls.echo, i) for i in range(30)]
        assert farloom.tree_reduce(ex, plus, futures, fan_in=4) == 435
        # Of 16 folded in a call, one value comes back.
        assert sum(farloom.attach(ex.task_group_id).counts().values()) < 100 + 15 + 7 + 2 + 3 + 30 + 12 + 10
