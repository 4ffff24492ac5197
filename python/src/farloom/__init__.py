"""Farloom: call Python functions on laptops, clusters and clouds.

    import farloom

    with farloom.Executor("laptop") as ex:
        print(ex.submit(pow, 2, 10).result())

Everything here is imported when it is first used, so that `import farloom` costs a few milliseconds.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import _context
    from ._aio import AsyncClient, AsyncExecutor, AsyncFuture
    from ._attach import TaskGroup, attach
    from ._bar import as_completed, progress_bar
    from ._client import Client
    from ._context import progress, secret
    from ._errors import (
        ConfigError,
        FarloomError,
        RemoteTraceback,
        TaskCancelledError,
        TaskError,
        TaskFailedError,
        TaskLostError,
        TaskTimedOutError,
        WorkerDiedError,
    )
    from ._executor import Executor
    from ._function import RemoteFunction, function
    from ._future import Future
    from ._output import OutputChunk
    from ._pool import Pool
    from ._reduce import map_reduce, tree_reduce
    from ._wait import Waited, wait_for, wait_for_async
    from .objects import ObjectInfo, ObjectPage, ObjectReader, Objects, ObjectToken

    task = _context.current()

_WHERE = {
    "AsyncClient": "_aio",
    "AsyncExecutor": "_aio",
    "AsyncFuture": "_aio",
    "Client": "_client",
    "ConfigError": "_errors",
    "Executor": "_executor",
    "FarloomError": "_errors",
    "Future": "_future",
    "ObjectInfo": "objects",
    "ObjectPage": "objects",
    "ObjectReader": "objects",
    "ObjectToken": "objects",
    "Objects": "objects",
    "OutputChunk": "_output",
    "Pool": "_pool",
    "RemoteFunction": "_function",
    "RemoteTraceback": "_errors",
    "TaskCancelledError": "_errors",
    "TaskError": "_errors",
    "TaskFailedError": "_errors",
    "TaskGroup": "_attach",
    "TaskLostError": "_errors",
    "TaskTimedOutError": "_errors",
    "Waited": "_wait",
    "WorkerDiedError": "_errors",
    "as_completed": "_bar",
    "attach": "_attach",
    "function": "_function",
    "map_reduce": "_reduce",
    "progress": "_context",
    "progress_bar": "_bar",
    "secret": "_context",
    "tree_reduce": "_reduce",
    "wait_for": "_wait",
    "wait_for_async": "_wait",
}

__all__ = [
    "AsyncClient",
    "AsyncExecutor",
    "AsyncFuture",
    "Client",
    "ConfigError",
    "Executor",
    "FarloomError",
    "Future",
    "ObjectInfo",
    "ObjectPage",
    "ObjectReader",
    "ObjectToken",
    "Objects",
    "OutputChunk",
    "Pool",
    "RemoteFunction",
    "RemoteTraceback",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskGroup",
    "TaskLostError",
    "TaskTimedOutError",
    "Waited",
    "WorkerDiedError",
    "__version__",
    "as_completed",
    "attach",
    "function",
    "map_reduce",
    "progress",
    "progress_bar",
    "secret",
    "task",
    "tree_reduce",
    "wait_for",
    "wait_for_async",
]


def __getattr__(name: str) -> Any:
    if name == "task":
        # Asked each time, as it depends on where this runs, and not on this package.
        from ._context import current

        return current()
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'farloom' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
