"""Waiting as science needs it: for all, for any, for the first n, for a share of them, for so long; and then, where
wanted, no longer for the rest. Nothing here polls: every future tells of its own end.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from ._future import Future

T = TypeVar("T")
AnyFuture: TypeAlias = concurrent.futures.Future[T]
Count: TypeAlias = int | Literal["all", "any"]
Rest: TypeAlias = bool | Literal["force"]


class Waited(NamedTuple):
    """How a wait ended."""

    done: "list[AnyFuture[Any]]"
    """Those that have ended, in the order in which they did; failed and cancelled ones too."""
    rest: "list[AnyFuture[Any]]"
    """Those that had not, in the order of the input."""
    reached: bool
    """Whether as many as were asked for have ended; False where time ran out, or too many failed."""

    def results(self) -> list[Any]:
        """The results of those that succeeded, in the order in which they ended. Raises nothing."""
        return [future.result() for future in self.done if _succeeded(future)]


def wait_for(
    futures: Iterable[AnyFuture[T]],
    count: Count = "all",
    *,
    fraction: float | None = None,
    successes: bool = False,
    timeout: float | None = None,
    cancel_rest: Rest = False,
) -> Waited:
    """Waits until so many of the futures have ended, and says which.

        done, rest, reached = farloom.wait_for(futures, fraction=0.95, timeout=60, cancel_rest=True)

    count         `all` (the default), `any`, or how many
    fraction      instead of `count`: of so large a share of them, above 0 and up to 1, rounded up
    successes     True: only those count that succeed, and the wait is over where they can no longer be enough
    timeout       in seconds; then what has ended by then is told, and nothing is raised
    cancel_rest   True: what has not started of the rest is cancelled when the wait is over; `force`: what runs as well

    Takes any `concurrent.futures.Future`, and a TaskGroup. Raises ValueError for a count that there cannot be.
    """
    every = _distinct(futures)
    wanted = _wanted(every, count, fraction)
    over = threading.Event()
    tally = _Tally(every, wanted, successes, over.set)
    try:
        over.wait(timeout)
    finally:
        tally.close()
    return _outcome(tally, cancel_rest)


async def wait_for_async(
    futures: "Iterable[AnyFuture[T] | asyncio.Future[T]]",
    count: Count = "all",
    *,
    fraction: float | None = None,
    successes: bool = False,
    timeout: float | None = None,
    cancel_rest: Rest = False,
) -> Waited:
    """`wait_for` for coroutines: takes futures of `AsyncExecutor`, tasks of the loop, and those of threads."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    every: list[Any] = _distinct(futures)
    wanted = _wanted(every, count, fraction)

    def tell() -> None:
        # A loop that is closed waits for nothing.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(over.set)

    tally = _Tally(every, wanted, successes, tell)
    try:
        await asyncio.wait_for(over.wait(), timeout)
    except asyncio.TimeoutError:
        pass
    finally:
        tally.close()
    return _outcome(tally, cancel_rest)


class _Tally:
    """Counts ends as they come, from whatever thread; `over` is called once, when there is no more to wait for."""

    def __init__(self, futures: "list[Any]", wanted: int, successes: bool, over: Callable[[], Any]) -> None:
        self.futures = futures
        self.ended: list[Any] = []
        self._wanted = wanted
        self._successes = successes
        self._over = over
        self._good = 0
        self._is_over = False
        self._lock = threading.Lock()
        self._check()
        for future in futures:
            future.add_done_callback(self._count)

    @property
    def reached(self) -> bool:
        return self._good >= self._wanted

    def _count(self, future: Any) -> None:
        with self._lock:
            if self._is_over:
                return
            self.ended.append(future)
            if not self._successes or _succeeded(future):
                self._good += 1
            self._check()

    def _check(self) -> None:
        left = len(self.futures) - len(self.ended)
        if not self._is_over and (self.reached or self._good + left < self._wanted):
            self._is_over = True
            self._over()

    def close(self) -> None:
        """Counts no more, and leaves nothing of itself with futures that live on."""
        with self._lock:
            self._is_over = True
        for future in self.futures:
            if isinstance(future, asyncio.Future):
                future.remove_done_callback(self._count)
            elif not future.done():
                # The standard library has no way to take a callback back, and a long wait may be one of many.
                with contextlib.suppress(AttributeError, ValueError):
                    future._done_callbacks.remove(self._count)


def cancel_all(futures: "Iterable[Any]", *, force: bool = False) -> None:
    """Asks for the end of what has not started; with `force`, of what runs as well. Does not wait for answers: calls
    of one client go to the service together."""
    together: dict[int, tuple[Any, list[Any]]] = {}
    for future in futures:
        if isinstance(future, Future):
            client, task = future._client, future._task
            if client is not None and task is not None:
                together.setdefault(id(client), (client, []))[1].append(task)
                continue
        if force and hasattr(future, "task_id"):
            future.cancel(force=True)
        else:
            future.cancel()
    for client, tasks in together.values():
        client.cancel(tasks, force=force)


def _outcome(tally: _Tally, cancel_rest: Rest) -> Waited:
    done = list(tally.ended)
    known = {id(future) for future in done}
    rest = [future for future in tally.futures if id(future) not in known]
    if cancel_rest:
        cancel_all(rest, force=cancel_rest == "force")
    return Waited(done, rest, tally.reached)


def _distinct(futures: Iterable[Any]) -> list[Any]:
    return list({id(future): future for future in futures}.values())


def _wanted(futures: list[Any], count: Count, fraction: float | None) -> int:
    if fraction is not None:
        if count != "all":
            raise ValueError("either count or fraction")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is above 0 and at most 1, not {fraction}")
        # 0.07 of 100 is 7, whatever the last bit of the product says.
        return math.ceil(round(fraction * len(futures), 9))
    if count == "all":
        return len(futures)
    wanted = min(1, len(futures)) if count == "any" else count
    if not isinstance(wanted, int) or not 0 <= wanted <= len(futures):
        raise ValueError(f"count is 'all', 'any' or a number up to {len(futures)}, not {count!r}")
    return wanted


def _succeeded(future: Any) -> bool:
    return not future.cancelled() and future.exception() is None
