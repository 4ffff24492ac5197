"""The `asyncio` twin: the same link, whose results wake the event loop once for whatever came together.

async with farloom.AsyncExecutor("cluster") as ex:
    print(await ex.submit(simulate, 1))
    async for value in ex.map(simulate, range(1000)):
        ...
"""

import asyncio
import functools
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ._beside import Payload
from ._client import Client
from ._executor import Executor
from ._future import Progress
from ._ids import to_uuid
from ._values import encode_pickle

if TYPE_CHECKING:
    from ._link.task import Task

P = ParamSpec("P")
T = TypeVar("T")

# Calls that `map` submits ahead of what was taken.
_WINDOW = 16_384


class AsyncFuture(asyncio.Future[T]):
    """The result of a call that runs on an endpoint, for one event loop."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(loop=loop)
        self._client: Client | None = None
        self._task: Task | None = None
        self._key = b""

    @property
    def task_id(self) -> str:
        """The task's id, known before anything is sent; empty while the function is being registered."""
        return to_uuid(self._key) if self._key else ""

    @property
    def progress(self) -> Progress | None:
        """How far the running function said that it is (`farloom.progress`); None while there is no word of it."""
        task = self._task
        return None if task is None or task.progress is None else Progress(*task.progress)

    def cancel(self, msg: Any | None = None, *, force: bool = False) -> bool:
        """Cancels the future at once, and asks the service to cancel the call: what runs goes on unless `force`."""
        if not super().cancel(msg):
            return False
        client, task = self._client, self._task
        self._client = self._task = None
        if client is not None and task is not None:
            client.cancel([task], force=force)
        return True


class _LoopSink:
    """Brings ends into an event loop: one wake-up for all that gather until it runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends: deque[tuple[bytes, Any, BaseException | None, bool]] = deque()
        self._is_scheduled = False
        self.futures: dict[bytes, AsyncFuture[Any]] = {}
        # Calls whose function is being registered, which the loop itself holds weakly; they keep their order.
        self.preparing: set[asyncio.Task[None]] = set()
        self.order = asyncio.Lock()

    def _put(self, task: "Task", value: Any, error: BaseException | None, cancelled: bool) -> None:
        self._ends.append((task.key, value, error, cancelled))
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody waits there any more.
                self._ends.clear()

    def on_value(self, task: "Task", value: Any) -> None:
        self._put(task, value, None, False)

    def on_error(self, task: "Task", error: BaseException) -> None:
        self._put(task, None, error, False)

    def on_cancelled(self, task: "Task") -> None:
        self._put(task, None, None, True)

    def on_running(self, task: "Task") -> None:
        pass

    def _deliver(self) -> None:
        # Before the queue is looked at: whoever adds after that look schedules again.
        self._is_scheduled = False
        ends = self._ends
        while ends:
            key, value, error, cancelled = ends.popleft()
            future = self.futures.pop(key, None)
            if future is None or future.done():
                continue
            future._client = future._task = None
            if cancelled:
                future.cancel()
            elif error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration):
                # asyncio refuses it, as it would end the coroutine that awaits it.
                future.set_exception(RuntimeError(f"the function raised {error!r}"))
            else:
                future.set_exception(error)


class AsyncExecutor:
    """Runs calls on an endpoint, from coroutines. Takes the arguments of `Executor`.

    `submit` gives an `AsyncFuture` at once: await it, gather it, or let `asyncio.wait` wait for many.
    """

    def __init__(self, endpoint: str | None = None, *, client: "AsyncClient | Client | None" = None, **options: Any):
        own = client.client if isinstance(client, AsyncClient) else client
        self._executor = Executor(endpoint, client=own, **options)
        self._sinks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopSink] = weakref.WeakKeyDictionary()
        self._open: weakref.WeakSet[AsyncFuture[Any]] = weakref.WeakSet()

    @property
    def task_group_id(self) -> str:
        return self._executor.task_group_id

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "AsyncFuture[T]":
        """Submits one call. Must be called in a running event loop."""
        if self._executor._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        loop = asyncio.get_running_loop()
        data = encode_pickle(args, kwargs)
        future: AsyncFuture[T] = AsyncFuture(loop=loop)
        self._open.add(future)
        digest = self._executor.known_digest(fn)
        sink = self._sinks.get(loop)
        if sink is None:
            sink = self._sinks[loop] = _LoopSink(loop)
        if digest is not None and not sink.preparing and self._can_start():
            self._start(future, digest, data, sink)
        else:
            # What may take long is done aside: looking up, registering, waiting for room.
            task = loop.create_task(self._prepare(future, fn, data, sink))
            sink.preparing.add(task)
            task.add_done_callback(sink.preparing.discard)
        return future

    def _can_start(self) -> bool:
        return self._executor.is_ready and not self._executor.client.link.custody.is_full

    async def _prepare(
        self, future: "AsyncFuture[Any]", fn: Callable[..., Any], data: Payload, sink: _LoopSink
    ) -> None:
        try:
            async with sink.order:
                digest = self._executor.known_digest(fn)
                if digest is None or not self._can_start():
                    digest = await asyncio.to_thread(self._executor.prepare, fn)
                if not future.done():
                    self._start(future, digest, data, sink)
        except Exception as error:
            if not future.done():
                future.set_exception(error)

    def _start(self, future: "AsyncFuture[Any]", digest: bytes, data: Payload, sink: _LoopSink) -> None:
        client = self._executor.client
        client.link.check_open()
        task = client.new_task(self._executor.lane, digest, data, sink, self._executor.task_options)
        future._client, future._task, future._key = client, task, task.key
        sink.futures[task.key] = future
        client.start(task)

    async def map(
        self,
        fn: Callable[..., T],
        *iterables: "Iterable[Any] | AsyncIterable[Any]",
        buffersize: int = _WINDOW,
    ) -> AsyncIterator[T]:
        """Results in the order of the input, which is read as they are taken. One input may be asynchronous."""
        calls = _zip_async(iterables)
        waiting: deque[AsyncFuture[T]] = deque()
        is_more = True
        try:
            while True:
                while is_more and len(waiting) < buffersize:
                    try:
                        args = await anext(calls)
                    except StopAsyncIteration:
                        is_more = False
                        break
                    waiting.append(self.submit(fn, *args))
                if not waiting:
                    return
                yield await waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; with `wait`, returns when every call has ended."""
        open_futures = [future for future in list(self._open) if not future.done()]
        self._executor._is_shut = True
        if cancel_futures:
            for future in open_futures:
                future.cancel()
        if wait and open_futures:
            await asyncio.wait(open_futures)

    async def __aenter__(self) -> "AsyncExecutor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()


async def _zip_async(iterables: "tuple[Iterable[Any] | AsyncIterable[Any], ...]") -> AsyncIterator[tuple[Any, ...]]:
    iterators: list[Iterator[Any] | AsyncIterator[Any]] = [
        aiter(it) if isinstance(it, AsyncIterable) else iter(it) for it in iterables
    ]
    while iterators:
        args: list[Any] = []
        for iterator in iterators:
            try:
                args.append(await anext(iterator) if isinstance(iterator, AsyncIterator) else next(iterator))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(args)


class AsyncClient:
    """`Client` for coroutines: the same settings, with what waits for the network off the event loop."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self.client = Client(url, **options)

    async def register_function(self, fn: Callable[..., Any], **options: Any) -> str:
        """Registers a Python function and returns its id."""
        return await asyncio.to_thread(functools.partial(self.client.register_function, fn, **options))

    async def endpoint(self, name: str | None = None) -> dict[str, Any]:
        """What the service knows of an endpoint."""
        return await asyncio.to_thread(self.client.endpoint, name)

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """A plain request; its JSON."""
        return await asyncio.to_thread(functools.partial(self.client.rest.json, method, path, **options))

    def executor(self, endpoint: str | None = None, **options: Any) -> AsyncExecutor:
        """An executor over this client."""
        return AsyncExecutor(endpoint, client=self, **options)

    async def attach(self, task_group_id: str) -> "list[asyncio.Future[Any]]":
        """The futures of a task group, in the order of submission."""
        from ._attach import attach

        group = await asyncio.to_thread(functools.partial(attach, task_group_id, client=self.client))
        return [asyncio.wrap_future(future) for future in group]

    async def close(self) -> None:
        """Waits until everything submitted is durable, and disconnects."""
        await asyncio.to_thread(self.client.close)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
