"""Waiting for all, any, some or a share; for a while; and no longer for the rest."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom


def plain(n: int) -> list[concurrent.futures.Future[int]]:
    return [concurrent.futures.Future() for _ in range(n)]


def end_later(futures: list[concurrent.futures.Future[int]], order: list[int], failing: tuple[int, ...] = ()) -> None:
    def end() -> None:
        for i in order:
            if i in failing:
                futures[i].set_exception(ValueError(str(i)))
            else:
                futures[i].set_result(i)

    threading.Timer(0.05, end).start()


def test_the_first_n_are_told_in_the_order_in_which_they_end_and_the_rest_in_that_of_the_input() -> None:
    futures = plain(5)
    end_later(futures, [3, 1])
    done, rest, reached = farloom.wait_for(futures, 2, timeout=10)
    assert (done, rest, reached) == ([futures[3], futures[1]], [futures[0], futures[2], futures[4]], True)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [({"count": "any"}, 1), ({"count": 3}, 3), ({"fraction": 0.07}, 7), ({"fraction": 0.005}, 1), ({}, 100)],
)
def test_as_many_are_waited_for_as_were_asked_for(how: dict[str, Any], wanted: int) -> None:
    futures = plain(100)
    for i, future in enumerate(futures[: wanted - 1]):
        future.set_result(i)
    assert not farloom.wait_for(futures, **how, timeout=0.05).reached
    futures[wanted - 1].set_result(0)
    told = farloom.wait_for(futures, **how, timeout=10)
    assert told.reached and len(told.done) == wanted


def test_failures_count_as_ends_unless_successes_are_asked_for() -> None:
    futures = plain(4)
    end_later(futures, [0, 1, 2], failing=(0, 1))
    told = farloom.wait_for(futures, 1, successes=True, timeout=10)
    assert told.reached and told.results() == [2]
    assert farloom.wait_for(futures, 2, timeout=0).reached


def test_a_wait_for_successes_is_over_where_too_many_have_failed() -> None:
    futures = plain(4)
    end_later(futures, [0, 1], failing=(0, 1))
    told = farloom.wait_for(futures, 3, successes=True)
    assert not told.reached and told.rest == futures[2:]


def test_a_wait_leaves_nothing_with_futures_that_live_on() -> None:
    futures = plain(3)
    for _ in range(5):
        farloom.wait_for(futures, timeout=0.001)
    assert all(not future._done_callbacks for future in futures)  # type: ignore[attr-defined]


def test_the_rest_is_cancelled_where_that_is_asked_for() -> None:
    futures = plain(3)
    futures[0].set_result(0)
    assert farloom.wait_for(futures, "any", cancel_rest=True).reached
    assert [future.cancelled() for future in futures] == [False, True, True]


def test_nothing_is_waited_for_where_there_is_nothing_and_counts_that_cannot_be_are_refused() -> None:
    assert farloom.wait_for([]).reached
    assert farloom.wait_for([], "any").reached
    for how in ({"count": 2}, {"count": -1}, {"count": "some"}, {"fraction": 0}, {"fraction": 1.5}):
        with pytest.raises(ValueError):
            farloom.wait_for(plain(1), **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        farloom.wait_for(plain(3), 1, fraction=0.5)


def test_on_an_endpoint_a_share_is_enough_and_the_rest_ends_there_too(fabric: Fabric) -> None:
    with farloom.Executor() as ex:
        # One of the two workers stays free.
        futures = [ex.submit(calls.nap, 0 if i < 9 else 60) for i in range(10)]
        began = time.monotonic()
        told = farloom.wait_for(futures, fraction=0.9, timeout=60, cancel_rest="force")
        assert told.reached and sorted(told.results()) == [0] * 9
    assert time.monotonic() - began < 40
    assert all(future.cancelled() for future in told.rest)


def test_the_twin_waits_for_futures_of_the_loop_and_of_threads(fabric: Fabric) -> None:
    async def work() -> Any:
        async with farloom.AsyncExecutor() as ex:
            short = [ex.submit(calls.echo, i) for i in range(5)]
            long = ex.submit(calls.nap, 60)
            other = plain(1)
            threading.Timer(0.05, other[0].set_result, [7]).start()
            told = await farloom.wait_for_async([*short, long, *other], 6, timeout=60, cancel_rest="force")
            late = await farloom.wait_for_async(plain(1), timeout=0.01)
            return told.reached, sorted(told.results()), told.rest == [long], long.cancelled(), late.reached

    assert asyncio.run(work()) == (True, [0, 1, 2, 3, 4, 7], True, True, False)
