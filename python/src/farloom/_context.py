"""`farloom.task`, `farloom.progress`, `farloom.secret`: what a function may know of its task, tell of it, and is given.

The worker needs nothing but the standard library and knows nothing of this package: where it runs a task, it has put a
module of that name into `sys.modules` (PROTOCOL.md P26a). Elsewhere there is no task: a function that asks runs as well
in a test or a notebook.
"""

import sys
from typing import Any, Protocol, cast

_WORKER = "farloom_worker_context"


class TaskContext(Protocol):
    """The running task. Where none runs it is false, and its fields are None."""

    def __bool__(self) -> bool: ...

    @property
    def id(self) -> str | None: ...

    @property
    def attempt(self) -> int | None:
        """Counted from 1."""

    @property
    def fence(self) -> int | None:
        """Rises with every attempt and lease: a store that keeps the highest it has seen refuses what is stale."""

    @property
    def deadline(self) -> float | None:
        """Seconds until it is stopped, by its run time limit or its deadline; None where it has neither."""

    @property
    def nodes(self) -> list[str] | None:
        """The whole nodes that it has, as the launcher calls them, this one first; None where it asked for none."""

    @property
    def ranks(self) -> int | None:
        """Processes that a program over those nodes is to have; None where it asked for no nodes."""

    @property
    def mpi_prefix(self) -> list[str]:
        """The words before a program that is to run so, for subprocess.run([*prefix, program]); empty without nodes."""


class _NoTask:
    """Stands where no task runs."""

    __slots__ = ()
    id = attempt = fence = deadline = nodes = ranks = None

    @property
    def mpi_prefix(self) -> list[str]:
        return []

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<no farloom task>"


def current() -> TaskContext:
    worker: Any = sys.modules.get(_WORKER)
    return cast(TaskContext, _NoTask() if worker is None else worker.task)


def progress(done: float, total: float | None = None) -> None:
    """Tells how far the running task is: `future.progress` at its caller's, `progress` in `GET /v1/tasks/{id}`.

    May be called as often as is handy: a few times in a second are told, the last value among them. Where no task
    runs it does nothing. Raises ValueError for what is no finite number from 0 on.
    """
    worker: Any = sys.modules.get(_WORKER)
    tell = getattr(worker, "progress", None)
    if tell is not None:
        tell(done, total)


def secret(name: str) -> str:
    """A secret of whoever submitted the running task, where its function names it: `@farloom.function(secrets=[…])`.

    Raises LookupError where the task was not given it, or where no task runs.
    """
    worker: Any = sys.modules.get(_WORKER)
    give = getattr(worker, "secret", None)
    if give is None:
        raise LookupError(f"the secret {name} is given to running tasks alone, and no task runs here")
    value: str = give(name)
    return value
