"""`farloom.Pool`: `multiprocessing.Pool`, whose calls run on an endpoint.

What is the same: names, arguments, chunks, the order of results, callbacks, errors and when they are raised. What is
not:

  1. How many calls run at once is the endpoint's to say; `processes` is how many chunks a list is cut for.
  2. `terminate` stops what runs, and who waits for it gets CancelledError instead of waiting for ever.
  3. `imap` reads its input as results are taken, a window ahead of them, so that it may be without end.
  4. An `initializer` runs in each worker process before its first call of a function, once for each function; it
     travels with the function, so that what it sets in its module is what the function sees.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from multiprocessing import TimeoutError as PoolTimeoutError
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ._executor import Executor
from ._map import DEFAULT_WINDOW, chunked
from ._values import encode_pickle

T = TypeVar("T")
Callback = Callable[[Any], object]

_RUN, _CLOSED, _TERMINATED = "RUN", "CLOSE", "TERMINATE"


class Pool:
    """A pool of an endpoint's workers, with the methods of `multiprocessing.Pool`.

    with farloom.Pool() as pool:
        print(pool.map(simulate, range(1000)))

    processes       how many chunks a list is cut for (four times as many); default the endpoint's workers
    initializer     called with `initargs` in each worker before its first call of a function
    executor        an Executor of your own, which stays open; otherwise one is made
    endpoint        where it runs; default FARLOOM_ENDPOINT, then the configuration file
    options         those of Executor: cores, memory_mb, retries, …
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        executor: Executor | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if executor is not None and (endpoint is not None or options):
            raise TypeError("give an executor, or an endpoint and options for one")
        self._owns = executor is None
        self._executor = executor if executor is not None else Executor(endpoint, **options)
        self._processes = processes
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._prepared: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._open: set[Future[Any]] = set()
        self._inputs: set[_Results] = set()
        self._state = _RUN

    # ── one call ───────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> T:
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> "AsyncResult[T]":
        self._check_running()
        future: Future[T] = self._executor.submit(self._with_initializer(func), *args, **(kwds or {}))
        return AsyncResult([self._watch(future)], lambda values: values[0], callback, error_callback)

    # ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> "AsyncResult[list[T]]":
        return self._map_async(func, [(item,) for item in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> "AsyncResult[list[T]]":
        return self._map_async(func, list(iterable), chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., T],
        calls: Sequence[Iterable[Any]],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> "AsyncResult[list[T]]":
        self._check_running()
        size = self._chunk_size(len(calls)) if chunksize is None else _checked(chunksize)
        chunks = self._submit_chunks(func, chunked(calls, size))
        flat: Callable[[list[list[T]]], list[T]] = lambda values: list(itertools.chain.from_iterable(values))  # noqa: E731
        return AsyncResult(list(chunks), flat, callback, error_callback)

    def _chunk_size(self, count: int) -> int:
        return max(1, -(-count // ((self._processes or self._executor.max_workers) * 4)))

    # ── iterators ──────────────────────────────────────────────────────────────────────────────────────────────────

    def imap(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1) -> "Iterator[T]":
        """Results in the order of the input; for `chunksize` 1 the iterator has `next(timeout=…)`."""
        return self._imap(_InOrder, func, iterable, chunksize)

    def imap_unordered(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1) -> "Iterator[T]":
        """Results as they come."""
        return self._imap(_AsTheyCome, func, iterable, chunksize)

    def _imap(
        self, kind: "type[_Results]", func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int
    ) -> "Iterator[T]":
        self._check_running()
        calls = ((item,) for item in iterable)
        if _checked(chunksize) == 1:
            submit, one = self._executor.submit, self._with_initializer(func)
            return kind(self, (self._watch(submit(one, *call)) for call in calls), DEFAULT_WINDOW)
        results = kind(self, self._submit_chunks(func, chunked(calls, chunksize)), max(1, DEFAULT_WINDOW // chunksize))
        return (value for chunk in results for value in chunk)

    # ── submitting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _submit_chunks(
        self, func: Callable[..., Any], chunks: Iterable[list[Iterable[Any]]]
    ) -> "Iterator[Future[list[Any]]]":
        executor = self._executor
        digest: bytes | None = None
        for chunk in chunks:
            if digest is None:
                digest = executor.prepare_chunk(self._with_initializer(func))
            yield self._watch(executor.submit_registered(digest, encode_pickle((chunk,), {})))

    def _watch(self, future: Future[T]) -> Future[T]:
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def _with_initializer(self, func: Callable[..., T]) -> Callable[..., T]:
        if self._initializer is None:
            return func
        known = self._prepared.get(func)
        if known is None:
            known = self._prepared[func] = _initialised(self._initializer, self._initargs, func)
        return known

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    # ── end ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Takes no more calls; what was submitted runs to its end."""
        if self._state == _RUN:
            self._state = _CLOSED

    def terminate(self) -> None:
        """Stops everything: what waits is cancelled on the endpoint, what runs loses its worker."""
        self._state = _TERMINATED
        for results in list(self._inputs):
            results.stop()
        tasks = [task for future in list(self._open) if (task := getattr(future, "_task", None)) is not None]
        if tasks:
            self._executor.client.cancel(tasks, force=True)
        if self._owns:
            self._executor.shutdown(wait=False)

    def join(self) -> None:
        """Waits until everything has ended; `close` or `terminate` comes first."""
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        for results in list(self._inputs):
            results.read_all()
        wait(list(self._open))
        if self._owns:
            self._executor.shutdown()

    def __enter__(self) -> "Pool":
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<farloom.Pool state={self._state} of {self._executor!r}>"


class AsyncResult(Generic[T]):
    """What comes of a call or a list: `get`, `wait`, `ready`, `successful`."""

    def __init__(
        self,
        futures: Sequence[Future[Any]],
        make: Callable[[list[Any]], T],
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._futures = futures
        self._make = make
        self._callback = callback
        self._error_callback = error_callback
        self._error: BaseException | None = None
        self._value: T | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._left = len(futures)
        if not futures:
            self._value = make([])
            self._ended.set()
        for future in futures:
            future.add_done_callback(self._one_ended)

    def _one_ended(self, future: Future[Any]) -> None:
        error = _error_of(future)
        with self._lock:
            # The first failure is the list's; it is told when all have ended.
            if error is not None and self._error is None:
                self._error = error
            self._left -= 1
            if self._left > 0:
                return
        try:
            if self._error is None:
                self._value = self._make([future.result() for future in self._futures])
                if self._callback is not None:
                    self._callback(self._value)
            elif self._error_callback is not None:
                self._error_callback(self._error)
        finally:
            self._futures = ()
            self._ended.set()

    def ready(self) -> bool:
        return self._ended.is_set()

    def successful(self) -> bool:
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def get(self, timeout: float | None = None) -> T:
        """The result; raises what the function raised, or multiprocessing.TimeoutError."""
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeoutError
        if self._error is not None:
            raise self._error
        value: Any = self._value
        return value  # type: ignore[no-any-return]


class _Results:
    """An iterator over what a stream of submissions gives. At most `window` of them are ahead of what was taken."""

    def __init__(self, pool: Pool, submissions: Iterator[Future[Any]], window: int) -> None:
        self._pool = pool
        self._submissions: Iterator[Future[Any]] | None = submissions
        self._window = window
        self._ahead = 0
        self._reading = threading.RLock()
        pool._inputs.add(self)
        self._fill(window)

    def add(self, future: Future[Any]) -> None:
        raise NotImplementedError

    def take(self, timeout: float | None) -> Future[Any]:
        """The next one that has ended. Raises PoolTimeoutError."""
        raise NotImplementedError

    def _fill(self, window: float) -> None:
        with self._reading:
            while self._submissions is not None and self._ahead < window:
                try:
                    future = next(self._submissions)
                except StopIteration:
                    self.stop()
                    return
                except Exception as error:
                    # The input's own error stands where its next item would have been.
                    future = Future()
                    future.set_exception(error)
                    self.stop()
                self._ahead += 1
                self.add(future)

    def stop(self) -> None:
        """Reads no more input."""
        self._submissions = None
        self._pool._inputs.discard(self)

    def read_all(self) -> None:
        self._fill(float("inf"))

    def __iter__(self) -> "_Results":
        return self

    def next(self, timeout: float | None = None) -> Any:
        self._fill(self._window)
        if self._ahead == 0:
            raise StopIteration
        future = self.take(timeout)
        self._ahead -= 1
        error = _error_of(future)
        if error is not None:
            raise error
        return future.result()

    __next__ = next


class _InOrder(_Results):
    def __init__(self, pool: Pool, submissions: Iterator[Future[Any]], window: int) -> None:
        self._futures: deque[Future[Any]] = deque()
        super().__init__(pool, submissions, window)

    def add(self, future: Future[Any]) -> None:
        self._futures.append(future)

    def take(self, timeout: float | None) -> Future[Any]:
        if not wait([self._futures[0]], timeout).done:
            raise PoolTimeoutError
        return self._futures.popleft()


class _AsTheyCome(_Results):
    def __init__(self, pool: Pool, submissions: Iterator[Future[Any]], window: int) -> None:
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        super().__init__(pool, submissions, window)

    def add(self, future: Future[Any]) -> None:
        future.add_done_callback(self._ended.put)

    def take(self, timeout: float | None) -> Future[Any]:
        try:
            return self._ended.get(timeout=timeout)
        except Empty:
            raise PoolTimeoutError from None


def _checked(chunksize: int) -> int:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
    return chunksize


def _error_of(future: Future[Any]) -> BaseException | None:
    if future.cancelled():
        return CancelledError()
    return future.exception()


def _initialised(
    initializer: Callable[..., object], initargs: tuple[Any, ...], func: Callable[..., T]
) -> Callable[..., T]:
    """`func`, before whose first call in a process the initializer runs. The three travel together, by value."""
    done: list[bool] = []

    # Its annotations travel as well: those name nothing of this module.
    def call(*args: Any, **kwargs: Any) -> Any:
        if not done:
            initializer(*initargs)
            done.append(True)
        return func(*args, **kwargs)

    return call
