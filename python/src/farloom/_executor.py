"""`farloom.Executor`: the standard library's executor, whose calls run on an endpoint."""

import concurrent.futures
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from ._beside import Payload
from ._client import Client, default_client
from ._future import Future
from ._ids import from_uuid, to_uuid
from ._map import MapResults, chunked
from ._requirements import required, secret_names
from ._values import encode_pickle

if TYPE_CHECKING:
    from .shipping import FunctionDefinition

P = ParamSpec("P")
T = TypeVar("T")
Mode = Literal["at_most_once", "at_least_once"]


class Executor(concurrent.futures.Executor):
    """Runs calls on an endpoint.

        with farloom.Executor("cluster") as ex:
            total = sum(ex.map(simulate, range(1000)))

    A function is shipped when it is first called and registered once; what it refers to is frozen at that moment.
    Arguments and results are pickled. An exception comes back with its own type, and the remote traceback as its cause.
    Results are pushed; a broken connection is made again, and a restarted service loses nothing.

    endpoint      name or id; default FARLOOM_ENDPOINT, then the configuration file
    client        a Client of your own; default: one that all executors of these settings share
    mode          `at_most_once` (the default) or `at_least_once`: whether a call whose worker was lost may run again
    retries       how often a failed call is tried again (then mode is at_least_once, unless you say otherwise)
    backoff_s     the wait before the first retry; doubled for each further one
    timeout_s     run time limit of one attempt
    cores, memory_mb, gpus      what a call needs of a node; gpus may be a share of one, 0.25
    nodes, ranks, ranks_per_node    whole nodes of one block, and the processes of a parallel program over them
    interpreter, env            the endpoint's environment by its name, and environment variables of the call
    requires                    packages that calls import, as pip names them: compared before anything is submitted
    isolation, network          the least isolation that a call wants of its endpoint (`namespaces`, …), and whether it
                  wants the network where the endpoint leaves that to functions
    secrets       names of your secrets that calls are given (`farloom.secret(name)` in the function): of functions that
                  this executor registers, and of somebody else's, which then may have them
    nested        True: the functions may submit calls themselves, by `farloom.Executor()` without settings; they reach
                  this endpoint and what they submit, by a token that ends with their task
    group         id of a task group to submit to; default a new one, `task_group_id`
    max_workers   how many calls libraries are told run at once; default the endpoint's workers (the property says more)

    Bounds: `submit` waits while 100,000 tasks, or 64 MiB of arguments, are submitted and not yet durable.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        client: Client | None = None,
        mode: Mode | None = None,
        retries: int = 0,
        backoff_s: float = 0.0,
        timeout_s: float | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
        gpus: float | None = None,
        nodes: int | None = None,
        ranks: int | None = None,
        ranks_per_node: int | None = None,
        interpreter: str | None = None,
        requires: str | Iterable[str] | None = None,
        env: dict[str, str] | None = None,
        isolation: str | None = None,
        network: bool | None = None,
        secrets: str | Iterable[str] | None = None,
        nested: bool = False,
        group: str | None = None,
        max_workers: int | None = None,
    ) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be >= 1")
        self.client = client if client is not None else default_client(endpoint)
        if endpoint is None and client is None:
            from ._config import resolve_config

            endpoint = resolve_config().endpoint
        self._endpoint = endpoint
        resources = {
            "cores": cores,
            "memoryMb": memory_mb,
            "gpus": gpus,
            "nodes": nodes,
            "ranks": ranks,
            "ranksPerNode": ranks_per_node,
        }
        environment: dict[str, Any] = {"interpreter": interpreter, "vars": env, **required(requires)}
        names = secret_names(secrets or ())
        environment |= {"isolation": isolation, "network": network, "secrets": names or None}
        self._options: dict[str, Any] = {
            "mode": mode,
            "retries": retries or None,
            "backoffMs": round(backoff_s * 1000) or None,
            "timeoutMs": None if timeout_s is None else max(1, round(timeout_s * 1000)),
            "resources": _set_ones(resources) or None,
            "env": _set_ones(environment),
        }
        told: dict[str, Any] = {"nested": True} if nested else {}
        if names:
            told["secrets"] = names
        self.task_options: dict[str, Any] | None = told or None
        """Options of every task, beside those of the function's definition."""
        self._group = self.client.new_group() if group is None else from_uuid(group)
        self._lane: Any = None
        self._functions: dict[int, tuple[Callable[[], Any], bytes]] = {}
        self._futures: dict[bytes, Future[Any]] = {}
        self._maps: weakref.WeakSet[MapResults] = weakref.WeakSet()
        self._is_shut = False
        self._workers = max_workers
        self._info: dict[str, Any] | None = None

    @property
    def task_group_id(self) -> str:
        """The group of all calls of this executor: `farloom.attach(id)` finds them again, anywhere."""
        return to_uuid(self._group)

    @property
    def url(self) -> str:
        """The group as the API has it: its calls by state. It asks for the API key, as all does."""
        return f"{self.client.config.url}/v1/groups/{self.task_group_id}"

    @property
    def max_workers(self) -> int:
        """How many calls run at once: as given, or the endpoint's workers, asked for once; 1 where none is known yet.

        A number for libraries that split work or hold it back by it (Dask, joblib, `farloom.Pool`); what is submitted
        beyond it waits on the endpoint all the same.
        """
        if self._workers is None:
            info = self.client.endpoint(self._endpoint).get("agentInfo") or {}
            self._workers = max(1, int(info.get("workers") or 1))
        return self._workers

    @property
    def _max_workers(self) -> int:
        # The name that the standard library's executors have it under, and by which Dask asks.
        return self.max_workers

    # ── submitting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submits one call. The future has the task's id before anything is sent."""
        digest = self._digest(fn)
        return self.submit_registered(digest, encode_pickle(args, kwargs))

    def submit_registered(self, digest: bytes, data: Payload, options: dict[str, Any] | None = None) -> Future[Any]:
        """Submits one call of a registered function with pickled `[args, kwargs]`."""
        self._check()
        client = self.client
        future: Future[Any] = Future()
        if self.task_options is not None:
            options = {**self.task_options, **(options or {})}
        task = client.new_task(self._lane or self._open_lane(), digest, data, future, options)
        futures = self._futures
        futures[task.key] = future
        future._begin(client, task, futures.pop)
        client.start(task)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """`map(fn, *iterables)`, in the order of the input.

        Input is read as the fabric takes it: `buffersize` calls (16,384 by default) are ahead of what was taken from
        the iterator, so it may be without end. `timeout` in seconds, from now, for each result. With `chunksize`, so
        many calls travel as one task.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check()
        calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if chunksize > 1:
            digest = self.prepare_chunk(fn)
            window = None if buffersize is None else max(1, buffersize // chunksize)
            chunks = self._map(digest, (((chunk,)) for chunk in chunked(calls, chunksize)), timeout, window)
            return itertools.chain.from_iterable(cast("Iterator[list[T]]", chunks))
        return cast("Iterator[T]", iter(self._map(self._digest(fn), calls, timeout, buffersize)))

    def _map(
        self, digest: bytes, calls: Iterator[tuple[Any, ...]], timeout: float | None, window: int | None
    ) -> MapResults:
        lane = self._lane or self._open_lane()
        results = MapResults(
            self.client, lane, digest, calls, timeout, window, lambda: self._is_shut, self.task_options
        )
        self._maps.add(results)
        results.fill()
        return results

    # ── for the twin and for drop-ins ──────────────────────────────────────────────────────────────────────────────

    @property
    def is_ready(self) -> bool:
        """Whether the endpoint is known, so that a call of a known function goes out at once."""
        return self._lane is not None

    @property
    def lane(self) -> Any:
        return self._lane or self._open_lane()

    def known_digest(self, fn: Callable[..., Any]) -> bytes | None:
        """The digest of a callable that was registered before."""
        entry = self._functions.get(id(fn))
        return entry[1] if entry is not None and entry[0]() is fn else None

    def prepare(self, fn: Callable[..., Any]) -> bytes:
        """Everything of a call that may take long, but for its arguments; the function's digest."""
        self._check()
        self._open_lane()
        return self._digest(fn)

    def prepare_chunk(self, fn: Callable[..., Any]) -> bytes:
        """The digest of what calls `fn` for each tuple of arguments in a list, and gives the list of results."""
        from .shipping import describe_chunk

        self._check()
        return self._register(describe_chunk(fn, self._options))

    def prepare_definition(self, define: "Callable[[dict[str, Any]], FunctionDefinition]") -> bytes:
        """The digest of a definition that is made of this executor's options."""
        self._check()
        return self._register(define(self._options))

    def _check(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.client.link.check()

    def _open_lane(self) -> Any:
        self._lane = self.client.link.lane(self.client.endpoint_id(self._endpoint), self._group)
        return self._lane

    def _digest(self, fn: Callable[..., Any]) -> bytes:
        """The registered function of a callable: by identity, while the callable lives; by content otherwise."""
        entry = self._functions.get(id(fn))
        if entry is not None and entry[0]() is fn:
            return entry[1]
        self._check()
        own = getattr(fn, "__farloom_definition__", None)
        if own is None:
            # Imported by the first call: it brings inspect and ast along.
            from .shipping import describe

            definition = describe(fn, self._options)
        else:
            definition = own(self._options)
        digest = self._register(definition)
        try:
            number, functions = id(fn), self._functions
            functions[number] = (weakref.ref(fn, lambda _: functions.pop(number, None)), digest)
        except TypeError:
            # It cannot be referred to weakly; its content is recognised by the client.
            pass
        return digest

    def _register(self, definition: "FunctionDefinition") -> bytes:
        env = definition.options.get("env") or {}
        if definition.python is not None or env.get("requires") or env.get("interpreter"):
            from ._environment import check_environment

            if self._info is None:
                self._info = self.client.endpoint(self._endpoint)
            check_environment(definition, self._info)
        return self.client.register(definition)

    # ── end ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel_all(self, *, force: bool = False) -> None:
        """Asks for the end of everything submitted here that has not started; with `force`, of what runs as well."""
        tasks = [task for future in list(self._futures.values()) if (task := future._task) is not None]
        for results in list(self._maps):
            tasks += results.open_tasks()
        self.client.cancel(tasks, force=force)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. With `cancel_futures`, what has not started is cancelled, on the endpoint too.

        With `wait`, returns when every call has ended. Without it nothing is lost: the calls run on, their futures
        still get their results, and `farloom.attach` finds them from elsewhere.
        """
        self._is_shut = True
        if cancel_futures:
            self.cancel_all()
        if wait and not self.client.link.is_own_thread():
            concurrent.futures.wait(list(self._futures.values()))
            for results in list(self._maps):
                results.wait_submitted()

    def __repr__(self) -> str:
        return f"<farloom.Executor on {self._where}, group {self.task_group_id}, {self._state}>"

    def _repr_html_(self) -> str:
        from ._html import card

        rows = [("endpoint", self._where), ("state", self._state), ("group", self.task_group_id)]
        return card("farloom.Executor", rows, self.url)

    @property
    def _where(self) -> str:
        return self._endpoint or self.client.config.endpoint or "?"

    @property
    def _state(self) -> str:
        return f"{'shut down, ' if self._is_shut else ''}{len(self._futures)} open"


def _set_ones(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
