"""The asyncio twin."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom


def run(work: Callable[[farloom.AsyncExecutor], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with farloom.AsyncExecutor() as ex:
            return await asyncio.wait_for(work(ex), 60)

    return asyncio.run(main())


def test_calls_are_awaited_and_gathered(fabric: Fabric) -> None:
    async def work(ex: farloom.AsyncExecutor) -> Any:
        one = await ex.submit(calls.add, 1, b=2)
        many = await asyncio.gather(*[ex.submit(calls.echo, i) for i in range(500)])
        return one, many

    assert run(work) == (3, list(range(500)))


def test_map_is_iterated_in_order_and_takes_asynchronous_input(fabric: Fabric) -> None:
    async def numbers() -> AsyncIterator[int]:
        for i in range(100):
            yield i

    async def work(ex: farloom.AsyncExecutor) -> Any:
        return [v async for v in ex.map(calls.add, numbers(), range(1000), buffersize=10)]

    assert run(work) == [2 * i for i in range(100)]


def test_exceptions_are_raised_with_their_type(fabric: Fabric) -> None:
    async def work(ex: farloom.AsyncExecutor) -> Any:
        with pytest.raises(ValueError, match="oh") as caught:
            await ex.submit(calls.fail, "oh")
        return type(caught.value.__cause__)

    assert run(work) is farloom.RemoteTraceback


def test_what_is_given_up_is_cancelled_on_the_endpoint(fabric: Fabric) -> None:
    async def work(ex: farloom.AsyncExecutor) -> Any:
        busy = [ex.submit(calls.nap, 1.5) for _ in range(2)]
        await asyncio.sleep(0.5)
        waiting = ex.submit(calls.nap, 60)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting, 0.1)
        assert waiting.cancelled()
        return await asyncio.gather(*busy)

    assert run(work) == [1.5, 1.5]


def test_the_client_attaches_and_asks(fabric: Fabric) -> None:
    async def main() -> Any:
        async with farloom.AsyncClient() as client:
            ex = client.executor()
            futures = [ex.submit(calls.echo, i) for i in range(3)]
            await asyncio.gather(*futures)
            again = await client.attach(ex.task_group_id)
            return await asyncio.gather(*again), (await client.endpoint("main"))["connected"]

    assert asyncio.run(main()) == ([0, 1, 2], True)


def test_the_executor_serves_run_in_executor(executor: farloom.Executor) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, calls.add, 1, 2)

    assert asyncio.run(main()) == 3


def test_a_cancel_on_the_thread_of_an_event_loop_does_not_hold_it_up(executor: farloom.Executor) -> None:
    future = executor.submit(calls.nap, 60)
    until = time.monotonic() + 30
    while not future.running() and time.monotonic() < until:
        time.sleep(0.05)

    async def main() -> bool:
        # The answer is a process that has ended: it takes longer than the call.
        assert future.cancel(force=True) is False
        await asyncio.to_thread(concurrent.futures.wait, [future], 30)
        return future.cancelled()

    assert asyncio.run(main())
