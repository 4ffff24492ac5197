"""`Executor.map`: results in the order of the input, input read as results are taken.

A map has no future for each call, as nobody could ask for one: results land in a table by their index, and whoever
iterates waits for the next index alone.

Bound: at most `window` calls are submitted ahead of what was taken; the rest of the input is not read yet.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from ._values import encode_pickle

if TYPE_CHECKING:
    from ._client import Client
    from ._link.stream import Lane
    from ._link.task import Task

T = TypeVar("T")

DEFAULT_WINDOW = 16_384
# Tasks handed to the link at once: the first ones soon, so that workers start; then full frames.
_FIRST_PIECE = 64
_PIECE = 2048

_OK, _ERROR = True, False


class MapResults:
    """The iterator that `map` gives. Closing it, or losing it, cancels what has not started."""

    def __init__(
        self,
        client: "Client",
        lane: "Lane",
        digest: bytes,
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        window: int | None,
        is_shut: Callable[[], bool],
        options: dict[str, Any] | None = None,
    ) -> None:
        self._client = client
        self._lane = lane
        self._digest = digest
        self._calls: Iterator[tuple[Any, ...]] | None = calls
        self._until = None if timeout is None else time.monotonic() + timeout
        self._window = DEFAULT_WINDOW if window is None else window
        self._is_shut = is_shut
        self._options = options
        self._table = _Table()
        self._submitted = 0
        self._taken = 0

    def fill(self) -> None:
        """Reads input and submits, up to the window."""
        calls = self._calls
        if calls is None:
            return
        client, lane, digest, table = self._client, self._lane, self._digest, self._table
        link = client.link
        new_task, start, tasks, options = client.new_task, client.start, table.tasks, self._options
        index = self._submitted
        last = self._taken + self._window
        flush_at = index + _FIRST_PIECE
        try:
            while index < last:
                try:
                    args = next(calls)
                except StopIteration:
                    self._calls = None
                    break
                task = new_task(lane, digest, encode_pickle(args, {}), table, options)
                task.index = index
                tasks[index] = task
                start(task, kick=False)
                index += 1
                self._submitted = index
                if index >= flush_at:
                    flush_at = index + _PIECE
                    link.kick()
                    link.check()
        finally:
            link.kick()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        index = self._taken
        if index >= self._submitted:
            self.fill()
            if index >= self._submitted:
                raise StopIteration
        elif self._calls is not None and self._submitted - index <= self._window // 2 and not self._is_shut():
            self.fill()
        try:
            ok, value = self._table.take(index, self._until)
        except BaseException:
            self.close()
            raise
        self._taken = index + 1
        if ok:
            return value
        self.close()
        try:
            raise value
        finally:
            # A traceback that refers to its own exception would keep everything alive.
            del value

    def open_tasks(self) -> "list[Task]":
        return list(self._table.tasks.values())

    def wait_submitted(self) -> None:
        """Until everything submitted has ended."""
        self._calls = None
        self._table.wait_empty()

    def close(self) -> None:
        """Reads no more input and cancels what has not started. Idempotent."""
        self._calls = None
        tasks = self.open_tasks()
        if tasks:
            self._client.cancel(tasks, force=False)

    def __del__(self) -> None:
        try:
            if self._table.tasks and not self._is_shut():
                self.close()
        except Exception:
            # The interpreter is ending, or the link is gone.
            pass


class _Table:
    """Ends by index (a Sink). The link's thread writes, whoever iterates takes; single dict operations are atomic."""

    __slots__ = ("_ends", "_event", "_wanted", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self._ends: dict[int, tuple[bool, Any]] = {}
        self._wanted = -1
        self._event = threading.Event()

    def take(self, index: int, until: float | None) -> tuple[bool, Any]:
        """The end of this index; waits for it. Raises TimeoutError."""
        ends = self._ends
        end = ends.pop(index, None)
        while end is None:
            self._event.clear()
            self._wanted = index
            end = ends.pop(index, None)
            if end is None:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise FuturesTimeoutError()
                self._event.wait(left)
                end = ends.pop(index, None)
        return end

    def wait_empty(self) -> None:
        while self.tasks:
            self._event.clear()
            self._wanted = -2
            if self.tasks:
                self._event.wait(1.0)

    def _put(self, task: "Task", end: tuple[bool, Any]) -> None:
        index = task.index
        self._ends[index] = end
        self.tasks.pop(index, None)
        wanted = self._wanted
        if wanted == index or (wanted == -2 and not self.tasks):
            self._event.set()

    def on_value(self, task: "Task", value: Any) -> None:
        self._put(task, (_OK, value))

    def on_error(self, task: "Task", error: BaseException) -> None:
        self._put(task, (_ERROR, error))

    def on_cancelled(self, task: "Task") -> None:
        self._put(task, (_ERROR, CancelledError()))

    def on_running(self, task: "Task") -> None:
        pass


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
