"""Errors a caller sees.

`FarloomError` is the catalogue's; the `TaskError`s below it say how a task ended where the function's own exception
did not come back. What the service said of itself keeps the service's words.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ._catalogue import ERRORS

_PLACE = re.compile(r"\{(\w+)\}")


def error_message(code: str, values: Mapping[str, object] | None = None) -> str:
    """The message of a code with its values filled in."""
    known = values or {}
    return _PLACE.sub(lambda m: str(known.get(m.group(1), m.group(0))), ERRORS[code][2])


class FarloomError(Exception):
    """An expected failure, with a code of the catalogue (docs/errors.md)."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        **values: object,
    ) -> None:
        known = ERRORS.get(code)
        super().__init__(message or (error_message(code, values) if known else code))
        self.code = code
        self.status = known[0] if status is None and known else (status or 500)
        """The HTTP status that belongs to it."""
        self.retryable = known[1] if retryable is None and known else bool(retryable)
        """Whether the same request may succeed later."""
        self.retry_after_s = retry_after_s
        """How long to wait, where the sender knows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[FarloomError], args: tuple[object, ...], state: dict[str, Any]) -> FarloomError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(FarloomError):
    """A setting is missing or cannot be used; nothing was sent."""


class TaskError(FarloomError):
    """A task that did not succeed."""

    def __init__(self, code: str, message: str, end: "TaskEnd") -> None:
        super().__init__(code, message)
        self.task_id = end.task_id
        self.state = end.state
        self.reason = end.reason
        detail = end.detail or {}
        error = detail.get("error") or {}
        self.stdout: str | None = detail.get("stdout")
        """What the function wrote, as far as it was kept (tail of 64 KiB)."""
        self.stderr: str | None = detail.get("stderr")
        self.exit_code: int | None = detail.get("exitCode")
        self.remote_type: str | None = error.get("type")
        """The exception's type on the other side, e.g. `ValueError`."""
        self.remote_message: str | None = error.get("message")
        self.remote_traceback: str | None = error.get("traceback")


class TaskFailedError(TaskError):
    """The function raised something that cannot be rebuilt here, or it could not be run."""


class WorkerDiedError(TaskFailedError):
    """The worker process ended while it ran the task."""


class TaskTimedOutError(TaskError, TimeoutError):
    """The task reached its time limit."""


class TaskCancelledError(TaskError):
    """The task was cancelled."""


class TaskLostError(TaskError):
    """The task had, or may have, started when its agent was lost; it was not run again."""


class RemoteTraceback(Exception):
    """The traceback on the other side: the cause of an exception that came from a worker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class TaskEnd:
    """How a task ended, for its error."""

    __slots__ = ("detail", "reason", "state", "task_id")

    def __init__(self, task_id: str, state: str, reason: str, detail: Mapping[str, Any] | None) -> None:
        self.task_id = task_id
        self.state = state
        self.reason = reason
        self.detail = detail


def task_error(end: TaskEnd) -> BaseException:
    """The exception that a task's end is to its caller: the function's own one where it came along."""
    if end.state == "CANCELLED":
        return TaskCancelledError("TASK_CANCELLED", error_message("TASK_CANCELLED"), end)
    if end.state == "TIMED_OUT":
        message = f"The task reached its time limit ({end.reason.replace('_', ' ')})."
        return TaskTimedOutError("TASK_TIMED_OUT", message, end)
    if end.state == "LOST" and end.reason != "worker_died":
        return TaskLostError("TASK_LOST", error_message("TASK_LOST"), end)
    if end.reason in ("worker_died", "poisoned", "out_of_memory"):
        return WorkerDiedError("WORKER_DIED", _worker_died_message(end), end)
    error = (end.detail or {}).get("error") or {}
    own = _own_exception(error)
    if own is None:
        own = TaskFailedError("TASK_FAILED", _failure_message(end), end)
    trace = error.get("traceback")
    if trace:
        own.__cause__ = RemoteTraceback(trace)
    return own


def _own_exception(error: Mapping[str, Any]) -> BaseException | None:
    """The exception itself, where the worker could send it and it can be rebuilt here."""
    data = error.get("data")
    if not isinstance(data, str) or not data:
        return None
    import base64
    import pickle

    try:
        value = pickle.loads(base64.b64decode(data))
    except Exception:
        # Its class is not known here, or its __init__ wants other arguments: the TaskFailedError tells of it.
        return None
    return value if isinstance(value, BaseException) else None


def _failure_message(end: TaskEnd) -> str:
    detail = end.detail or {}
    error = detail.get("error")
    if not error:
        code = detail.get("exitCode")
        how = "" if code is None else f" with exit code {code}"
        return f"The task failed{how} ({end.reason.replace('_', ' ')})."
    if end.reason in ("user_error", "none"):
        return f"The function raised {error.get('type')}: {error.get('message')}"
    return str(error.get("message"))


def _worker_died_message(end: TaskEnd) -> str:
    detail = end.detail or {}
    error = detail.get("error") or {}
    how = error.get("message")
    if not how and detail.get("signal"):
        how = f"by {detail['signal']}"
    if not how:
        code = detail.get("exitCode")
        how = end.reason.replace("_", " ") if code is None else f"exit code {code}"
    return f"The worker process ended while it ran the task: {how.rstrip('.')}."


def parse_problem(status: int, body: bytes, retry_after: str | None) -> FarloomError:
    """A problem document (RFC 9457) as an error, in the service's own words."""
    wait_s = parse_retry_after(retry_after)
    retryable = status in (408, 429) or status >= 502
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        told = problem.get("retryable")
        return FarloomError(
            problem["code"],
            str(problem.get("detail") or problem.get("title") or ""),
            status=status,
            retryable=told if isinstance(told, bool) else retryable,
            retry_after_s=wait_s,
        )
    if status == 401:
        return FarloomError("UNAUTHENTICATED", retry_after_s=wait_s)
    message = (
        "Not found. Is this the address of a Farloom service?"
        if status == 404
        else f"The service, or a proxy before it, answered with status {status}."
    )
    return FarloomError(f"HTTP_{status}", message, status=status, retryable=retryable, retry_after_s=wait_s)


def parse_retry_after(value: str | None) -> float | None:
    """Retry-After in seconds: a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    import datetime

    now = datetime.datetime.now(at.tzinfo or datetime.timezone.utc)
    return max(0.0, (at - now).total_seconds())


def unreachable(url: str, detail: object) -> FarloomError:
    return FarloomError("SERVICE_UNREACHABLE", url=url, detail=detail)
