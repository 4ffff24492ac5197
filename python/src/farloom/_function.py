"""`@farloom.function`: a function that runs here when it is called, and there when it is submitted.

@farloom.function(endpoint="cluster", cores=4, memory="8GB", walltime="00:30:00")
def simulate(seed): ...

simulate(1)                      # here
simulate.submit(1).result()      # there
list(simulate.map(range(100)))   # there, a hundred of them
"""

import functools
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from ._attach import TaskGroup
from ._executor import Executor, Mode
from ._future import Future
from ._requirements import definition_options, merged
from .shipping import FunctionDefinition, Modules, Ship, describe

if TYPE_CHECKING:
    import datetime

    from ._client import Client

P = ParamSpec("P")
T = TypeVar("T")
_DEFAULTS: dict[str, Any] = {"retries": 0, "backoff_s": 0.0, "modules": (), "ship": "auto", "nested": False}


class RemoteFunction(Generic[P, T]):
    """A function with the place where it runs, made by `farloom.function`."""

    def __init__(self, fn: Callable[P, T], told: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, fn)
        self.__farloom_function__ = fn
        self._told = {name: value for name, value in told.items() if value is not None}
        self._own = definition_options(self._told)
        self._executor: Executor | None = None
        self._pid = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.__farloom_function__(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """One call there. The future has the task's id before anything is sent."""
        future: Future[T] = cast("Any", self.executor).submit(self, *args, **kwargs)
        return future

    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """A call there for each item; results in the order of the input, which is read as they are taken."""
        return self.executor.map(self, *iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    def submit_all(self, *iterables: Iterable[Any]) -> TaskGroup:
        """A call there for each item, all submitted now: a group of futures with an id of its own."""
        executor: Executor = self._new_executor()
        submit: Callable[..., Future[Any]] = executor.submit
        futures = [submit(self, *args) for args in zip(*iterables, strict=False)]
        return TaskGroup(executor._group, futures, executor.client)

    def on(self, endpoint: str | None = None, **changes: Any) -> "RemoteFunction[P, T]":
        """The same function with other options: another endpoint, more memory."""
        told = {**self._told, **changes}
        if endpoint is not None:
            told["endpoint"] = endpoint
        unknown = set(told) - _NAMES
        if unknown:
            raise TypeError(f"on() got an unexpected option {sorted(unknown)[0]!r}")
        return RemoteFunction(self.__farloom_function__, told)

    # ── what becomes of it ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def executor(self) -> Executor:
        """Where `submit` and `map` submit to; after a fork the child makes one of its own."""
        if self._executor is None or self._pid != os.getpid():
            self._executor, self._pid = self._new_executor(), os.getpid()
        return self._executor

    def _new_executor(self) -> Executor:
        client: Client | None = self._told.get("client")
        return Executor(self._told.get("endpoint"), client=client, nested=self._told.get("nested", False))

    @property
    def task_group_id(self) -> str:
        """The group of what `submit` and `map` submit: `farloom.attach(id)` finds it again."""
        return self.executor.task_group_id

    @property
    def definition(self) -> FunctionDefinition:
        """What is registered for it."""
        return self.__farloom_definition__({})

    @property
    def shipped_as(self) -> str:
        """`source` or `pickle`; `definition.description` says why, as its record does."""
        return self.definition.format

    def register(self) -> str:
        """Registers it and returns its id: to call it by REST, the command line, or another language."""
        return self.executor.prepare(self).hex()

    def __farloom_definition__(self, options: Mapping[str, Any]) -> FunctionDefinition:
        """For executors: their options, with what the function itself says above them."""
        told = self._told
        return describe(
            self.__farloom_function__,
            merged(options, self._own),
            ship=told.get("ship", "auto"),
            modules=told.get("modules", ()),
            decorated=True,
        )

    def __farloom_options__(self) -> str:
        """Its keywords as text, for a function that submits it from there."""
        told = {k: v for k, v in self._told.items() if v != _DEFAULTS.get(k) and k not in ("client", "modules")}
        return ", ".join(f"{name}={value!r}" for name, value in told.items())

    def __reduce__(self) -> tuple[Any, ...]:
        told = {name: value for name, value in self._told.items() if name not in ("client", "modules")}
        return RemoteFunction, (self.__farloom_function__, told)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        # As a method it runs here, as any function does; what is submitted is the function.
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        where = self._told.get("endpoint") or "the default endpoint"
        return f"<farloom.function {getattr(self, '__qualname__', '?')} on {where}>"


_NAMES = {"endpoint", "environment", "requires", "walltime", "mode", "retries", "backoff_s"}
_NAMES |= {"cores", "memory", "gpus", "nodes", "ranks", "ranks_per_node"}
_NAMES |= {"modules", "ship", "client", "nested", "isolation", "network", "secrets"}


@overload
def function(fn: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def function(
    *,
    endpoint: str | None = None,
    environment: str | Mapping[str, Any] | None = None,
    requires: str | Iterable[str] | None = None,
    cores: int | None = None,
    memory: int | str | None = None,
    gpus: float | None = None,
    nodes: int | None = None,
    ranks: int | None = None,
    ranks_per_node: int | None = None,
    walltime: "float | str | datetime.timedelta | None" = None,
    mode: Mode | None = None,
    retries: int = 0,
    backoff_s: float = 0.0,
    modules: Modules = (),
    ship: Ship = "auto",
    nested: bool = False,
    isolation: str | None = None,
    network: bool | None = None,
    secrets: str | Iterable[str] | None = None,
    client: "Client | None" = None,
) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
def function(fn: Callable[..., Any] | None = None, /, **told: Any) -> Any:
    """Makes a function that runs here when called, and on an endpoint by `.submit` and `.map`.

    endpoint      name or id; default FARLOOM_ENDPOINT, then the configuration file
    environment   the endpoint's environment: its name, or {"interpreter": …, "vars": {…}} with environment variables
    requires      packages that it imports, as pip names them (`numpy>=2`): compared before anything is submitted
    cores, memory, gpus     what one call needs of a node; memory in MiB or as `8GB`, gpus also a share: 0.25
    nodes, ranks, ranks_per_node  whole nodes of one block, and the processes of a parallel program over them
    walltime      run time limit of one call: seconds, a timedelta, or `HH:MM:SS`
    mode          `at_most_once` (the default) or `at_least_once`: whether a call whose worker was lost may run again
    retries, backoff_s      how often a call that raised is tried again, and the first wait before that
    modules       modules or packages of your project that travel with it, as text
    ship          `source` (text) or `pickle` (cloudpickle) where it must be one of them; default: text where possible
    nested        True: a call may submit calls itself, by `farloom.Executor()` without settings; `Executor` says more
    isolation     the least isolation that a call wants of its endpoint: `limits`, `namespaces`, `container` or `user`
    network       True: a call wants the network, where its endpoint leaves that to functions
    secrets       names of your secrets that a call is given: `farloom.secret(name)` in the function
    client        a Client of your own
    """
    unknown = set(told) - _NAMES
    if unknown:
        raise TypeError(f"function() got an unexpected option {sorted(unknown)[0]!r}")
    if told.get("ship", "auto") not in ("auto", "source", "pickle"):
        raise ValueError("ship is 'auto', 'source' or 'pickle'")
    if fn is None:
        return lambda fn: RemoteFunction(fn, told)
    return RemoteFunction(fn, told)


function.__farloom_decorator__ = True  # type: ignore[attr-defined]
