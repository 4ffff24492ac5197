"""Results to ends: a results frame settles the tasks that are still open, in one pass."""

import pickle
from typing import Any, Protocol

from .._errors import FarloomError, TaskEnd, task_error
from .._frames import (
    CANCELLED,
    PICKLE,
    REASONS,
    REFERENCE,
    STATES,
    SUCCEEDED,
    Frame,
    FrameInvalid,
    check_results,
    decode_reference,
    duration_ms,
    read_u32_column,
    seal_holds,
)
from .._values import decode_result
from .custody import Custody
from .task import Task


class Fetcher(Protocol):
    """Gets what did not come in the frame, aside, and settles the task."""

    def fetch_payload(self, task: Task, digest: bytes, size_bytes: int, codec: int) -> None: ...

    def fetch_result(self, task: Task, seal: bytes) -> None:
        """Once more, over REST: what came does not bear its seal (P25)."""


_loads = pickle.loads


def settle_results(frame: Frame, custody: Custody, fetcher: Fetcher) -> None:
    """Raises FrameInvalid before anything is settled where the columns do not fit."""
    ends = check_results(frame)
    n: int = frame["n"]
    ids: bytes = frame["ids"]
    data: bytes = frame["data"]
    codecs: int | bytes = frame["codecs"]
    states: int | bytes = frame["states"]
    detail = frame.get("detail")
    details: dict[int, Any] | None = {int(k): v for k, v in detail.items()} if detail else None
    reasons: bytes | None = frame.get("reasons")
    run = frame.get("runUs")
    run_us = read_u32_column(run, n) if run is not None else None
    seals: bytes | None = frame.get("seals")
    take = custody.open.pop
    settled = custody.settled
    start = at = 0
    for i in range(n):
        end = ends[i]
        task = take(ids[at : at + 16], None)
        at += 16
        if task is None:
            # Settled before: it only counts in the mark (L5).
            start = end
            continue
        settled(task)
        if run_us is not None:
            task.run_ms = duration_ms(run_us[i])
        if details is not None:
            task.detail = details.get(i)
        state = states if isinstance(states, int) else states[i]
        if state != SUCCEEDED:
            reason = reasons[i] if reasons is not None else 0
            _settle_failure(task, state, reason)
        elif seals is not None and not seal_holds(seal := seals[2 * at - 32 : 2 * at], task.key, data[start:end]):
            fetcher.fetch_result(task, seal)
        else:
            codec = codecs if isinstance(codecs, int) else codecs[i]
            if codec == PICKLE:
                try:
                    value = _loads(data[start:end])
                except Exception:
                    settle_value(task, codec, data[start:end])
                else:
                    task.sink.on_value(task, value)
                    # A waiting result must not live in this frame's locals until the next one comes.
                    del value
            elif codec & REFERENCE:
                try:
                    digest, size = decode_reference(data[start:end])
                except FrameInvalid as error:
                    task.sink.on_error(task, FarloomError("RESULT_UNREADABLE", id=task.id, detail=error))
                else:
                    fetcher.fetch_payload(task, digest, size, codec & ~REFERENCE)
            else:
                settle_value(task, codec, data[start:end])
        start = end


def settle_value(task: Task, codec: int, data: "bytes | bytearray | memoryview") -> None:
    """A result's bytes as the task's end."""
    try:
        value = decode_result(codec, data, task.id)
    except FarloomError as error:
        task.sink.on_error(task, error)
    else:
        task.sink.on_value(task, value)


def _settle_failure(task: Task, state: int, reason: int) -> None:
    if state == CANCELLED:
        task.sink.on_cancelled(task)
        return
    word = REASONS[reason] if reason < len(REASONS) else "none"
    task.sink.on_error(task, task_error(TaskEnd(task.id, STATES.get(state, "FAILED"), word, task.detail)))
