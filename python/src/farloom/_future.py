"""The future of one call: a real `concurrent.futures.Future`, so `wait`, `as_completed`, Dask and asyncio take it.

What differs from a local executor's future: `cancel` asks the service, and so may wait a moment for its answer.
"""

import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ._errors import FarloomError
from ._link.task import DURABLE

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterator

    from ._client import Client
    from ._link.task import Task
    from ._output import OutputChunk

T = TypeVar("T")

# How long `cancel` waits for the service's answer. A task whose endpoint is away keeps its request longer.
CANCEL_WAIT_S = 5.0
# What asks the service of a call that was just submitted waits so long for it to be known there.
KNOWN_WAIT_S = 30.0
_DONE = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class Progress(NamedTuple):
    done: float
    total: float | None = None
    """None where the function did not say."""

    def __str__(self) -> str:
        return f"{self.done:g}" if self.total is None else f"{self.done:g} of {self.total:g}"

    def _repr_html_(self) -> str:
        from ._html import meter

        return meter(self.done, self.total)


class _Base(concurrent.futures.Future[T], Generic[T]):
    """The standard library's future, in typed form."""


def _runs_event_loop() -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


class Future(_Base[T]):
    """The result of a call that runs on an endpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._task: Task | None = None
        self._client: Client | None = None
        # For what is asked of the service after the end, too.
        self._home: weakref.ref[Client] | None = None
        self._key = b""
        self._detail: dict[str, Any] | None = None
        self._run_ms: float | None = None
        self._progress: tuple[float, float | None] | None = None
        self._on_end: Callable[[bytes], object] | None = None
        # Of those who wait in `cancel`.
        self._answers: Sequence[threading.Event] = ()

    @property
    def task_id(self) -> str:
        """The task's id, known before anything is sent: `farloom tasks show ID`, `farloom.attach`."""
        from ._ids import to_uuid

        return to_uuid(self._key)

    @property
    def stdout(self) -> str:
        """What the function wrote to standard output, once it has ended (tail of 64 KiB)."""
        return str((self._detail or {}).get("stdout", ""))

    @property
    def stderr(self) -> str:
        """What the function wrote to standard error, once it has ended (tail of 64 KiB)."""
        return str((self._detail or {}).get("stderr", ""))

    @property
    def run_ms(self) -> float | None:
        """How long it ran on its worker, in milliseconds, once it has ended."""
        return self._run_ms

    @property
    def progress(self) -> "Progress | None":
        """How far the function said that it is (`farloom.progress`), a few times in a second at most. Its last word
        stays when it has ended; None while there is none."""
        task = self._task
        told = self._progress if task is None else task.progress
        return None if told is None else Progress(*told)

    def why(self) -> str | None:
        """Why the call does not run yet, in a sentence; None where it runs, or has ended. Asks the service."""
        return None if self.done() else self._known().why(self.task_id)

    def logs(
        self, *, stream: str = "stdout", follow: bool = False, offset: int = 0, attempt: int | None = None
    ) -> "Iterator[OutputChunk]":
        """What the function writes, while it runs and afterwards.

            for chunk in future.logs(follow=True):
                print(chunk, end="")

        Of one stream, from a byte on: what there is now, or with `follow` as it comes until the call has ended, over
        its attempts. `chunk.next_offset` is where a later reading goes on. Of a long stream the first 256 KiB and
        the last 768 KiB are kept.
        """
        return self._known().logs(self.task_id, stream=stream, follow=follow, offset=offset, attempt=attempt)

    def _known(self) -> "Client":
        """The client, once the service knows of the task."""
        client, task = None if self._home is None else self._home(), self._task
        if client is None:
            raise FarloomError("CLIENT_CLOSED")
        until = time.monotonic() + KNOWN_WAIT_S
        while task is not None and task.phase < DURABLE and time.monotonic() < until:
            time.sleep(0.005)
        return client

    def cancel(self, *, force: bool = False) -> bool:
        """Cancels the call. True where it is cancelled.

        What has not started is cancelled at once, wherever it waits. What runs is left alone and the answer is False,
        as for any executor; with `force=True` it is stopped too, by ending its worker process. Waits up to
        5 s for the service's answer, and then says False: the request stands all the same. On the thread of a running
        event loop it does not wait, as nothing else would run there meanwhile.
        """
        if self._state in _DONE:
            return self._state != FINISHED
        client, task = self._client, self._task
        if client is None or task is None:
            return super().cancel()
        if self._state == RUNNING and not force:
            return False
        # An event of its own: to notify the future's condition would end the wait of `result`, which waits once.
        answer = threading.Event()
        with self._condition:
            self._answers = [*self._answers, answer]
        self.add_done_callback(lambda _: answer.set())
        client.cancel([task], force=force)
        if client.link.is_own_thread() or _runs_event_loop():
            # In a callback: the answer comes by this very thread.
            return self.cancelled()
        until = time.monotonic() + CANCEL_WAIT_S
        while self._state not in _DONE and (force or self._state != RUNNING):
            left = until - time.monotonic()
            if left <= 0 or not answer.wait(left):
                break
            if self._state not in _DONE:
                answer.clear()
        return self.cancelled()

    # ── told by the link (Sink) ────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, client: "Client", task: "Task", on_end: Callable[[bytes], object] | None) -> None:
        self._client = client
        self._home = client.weak
        self._task = task
        self._key = task.key
        self._on_end = on_end

    def _end(self, task: "Task") -> None:
        self._progress = task.progress
        # Without these a future would keep its task alive, and the task its future.
        self._task = None
        self._client = None
        if task.detail is not None:
            self._detail = task.detail
        self._run_ms = task.run_ms
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(task.key)

    def on_value(self, task: "Task", value: T) -> None:
        self._end(task)
        try:
            self.set_result(value)
        except concurrent.futures.InvalidStateError:
            pass

    def on_error(self, task: "Task", error: BaseException) -> None:
        self._end(task)
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            pass

    def on_cancelled(self, task: "Task") -> None:
        self._end(task)
        with self._condition:
            if self._state in _DONE:
                return
            self._state = CANCELLED
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        self.set_running_or_notify_cancel()

    def on_running(self, task: "Task") -> None:
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
        for answer in self._answers:
            answer.set()

    def __repr__(self) -> str:
        told = self.progress
        how_far = "" if told is None else f", {told}"
        return f"<farloom.Future {self.task_id if self._key else '?'}, {self._word}{how_far}>"

    @property
    def _word(self) -> str:
        """Its state in a word, with the kind of an exception."""
        with self._condition:
            state, error = self._state, self._exception
        if state == FINISHED:
            return "finished" if error is None else f"raised {type(error).__name__}"
        return {PENDING: "pending", RUNNING: "running"}.get(state, "cancelled")

    def _repr_html_(self) -> str:
        from ._html import card, meter

        client, told, run_ms = self._client, self.progress, self._run_ms
        rows = [
            ("state", self._word),
            ("task", self.task_id if self._key else None),
            ("ran", None if run_ms is None else f"{run_ms / 1000:.3f} s"),
        ]
        link = None if client is None else f"{client.config.url}/v1/tasks/{self.task_id}"
        return card("farloom.Future", rows, link) + ("" if told is None else meter(*told))
