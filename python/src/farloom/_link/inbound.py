"""Frames that come to a client, one function for each kind. What does not fit ends the connection (P3)."""

import heapq
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._errors import FarloomError
from .._frames import Frame, FrameInvalid, encode
from .._rest import backoff_s
from .connection import Connection, LinkEnded
from .settle import settle_results
from .task import CANCEL_QUEUED

if TYPE_CHECKING:
    from .link import Link


def take_frame(link: "Link", connection: Connection, frame: Frame) -> None:
    """Raises LinkEnded, and FrameInvalid for what breaks the rules."""
    kind = frame["t"]
    if kind == "refuse":
        raise LinkEnded(told_error(frame))
    handle = _HANDLERS.get(kind)
    if handle is None:
        message = f'frame "{kind[:40]}" is not known here'
        connection.send(encode({"t": "problem", "code": "FRAME_UNKNOWN", "message": message}))
        return
    if not link.is_connected:
        raise FrameInvalid(f"{kind} before welcome")
    try:
        handle(link, frame)
    except (KeyError, TypeError, ValueError) as error:
        raise FrameInvalid(f"{kind}: {error!r}") from None


def told_error(frame: Frame) -> FarloomError:
    """What the other side said was wrong, in its own words."""
    wait = frame.get("retryAfterMs")
    return FarloomError(str(frame["code"]), str(frame["message"]), retry_after_s=None if wait is None else wait / 1000)


def _on_credit(link: "Link", frame: Frame) -> None:
    # Numbers above 32 bits come as floats from JavaScript.
    with link.custody.lock:
        link.custody.grant(int(frame["tasks"]), int(frame["bytes"]))


def _on_mark(link: "Link", frame: Frame) -> None:
    with link.custody.lock:
        wrong = link.custody.mark(int(frame["accepted"]), int(frame["durable"]))
    if wrong is not None:
        raise FrameInvalid(wrong)
    link.has_moved = True
    link.custody.tell_room()


def _on_results(link: "Link", frame: Frame) -> None:
    settle_results(frame, link.custody, link.fetcher)
    link.custody.received += frame["n"]
    link.has_moved = True


def _on_refused(link: "Link", frame: Frame) -> None:
    error = told_error(frame)
    with link.custody.lock:
        tasks = link.custody.refuse(int(frame["from"]), int(frame["n"]), for_good=not error.retryable)
    if not error.retryable:
        for task in tasks:
            link.custody.settled(task)
            task.sink.on_error(task, error)
        link.custody.tell_room()
    elif tasks:
        wait = max(error.retry_after_s or 0.0, backoff_s(tasks[0].sends))
        heapq.heappush(link.timers, (time.monotonic() + wait, next(link.numbers), tasks))


def _on_progress(link: "Link", frame: Frame) -> None:
    if frame["kind"] == "progress":
        task = link.custody.open.get(frame["ids"])
        if task is not None:
            task.progress = (frame["done"], frame.get("total"))
        return
    if frame["kind"] != "started":
        return
    ids: bytes = frame["ids"]
    for at in range(0, len(ids), 16):
        task = link.custody.open.get(ids[at : at + 16])
        if task is not None:
            if task.cancel_asked == CANCEL_QUEUED:
                # That was the answer: it is not asked again after a reconnect.
                task.cancel_asked = 0
            task.sink.on_running(task)


def _on_problem(link: "Link", frame: Frame) -> None:
    """A watch or a cancel could not be carried out: nothing else will ever be said of it."""
    error = told_error(frame)
    if error.code == "FRAME_UNKNOWN":
        return
    asked = [task for task in list(link.custody.open.values()) if task.cancel_asked]
    if error.retryable or not asked:
        # What passes is asked again in a new session. One that may not read fails all who wait, and this session too.
        raise LinkEnded(error)
    # A key that may not cancel fails those who asked for it.
    for task in asked:
        if link.custody.open.pop(task.key, None) is not None:
            link.custody.settled(task)
            task.sink.on_error(task, error)


def _on_bye(link: "Link", frame: Frame) -> None:
    raise LinkEnded(told_error(frame))


def _nothing(link: "Link", frame: Frame) -> None:
    """A pong is a sign of life; after `drain` the service closes when it is done."""


_HANDLERS: dict[str, Callable[["Link", Frame], None]] = {
    "credit": _on_credit,
    "mark": _on_mark,
    "results": _on_results,
    "refused": _on_refused,
    "progress": _on_progress,
    "problem": _on_problem,
    "bye": _on_bye,
    "pong": _nothing,
    "drain": _nothing,
    "welcome": _nothing,
}
