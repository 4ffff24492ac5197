"""`map_reduce` and `tree_reduce`: values become one by a tree of calls, each of which folds a few neighbours.

  inputs   i i i i  i i i i  i i
  map      m m m m  m m m m  m m         a call for each input, or for each piece of it
  reduce   ╰──r──╯  ╰──r──╯  ╰┬╯         as soon as neighbours are there, not level by level
           ╰───────r──────────╯

1. Order is kept: the reducer has to be associative, and need not be commutative.
2. The caller holds at most `window` open calls, and below `fan_in` values for each level of the tree on either side of
   what is slowest: input is read as the tree takes it, and may be longer than memory.
3. The first call that fails ends all: its exception is raised, and what is open is cancelled.
"""

import base64
import concurrent.futures
import functools
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from ._executor import Executor
from ._map import chunked
from ._values import encode_pickle
from ._wait import cancel_all
from .shipping import FunctionDefinition, describe, describe_reduction

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741

DEFAULT_FAN_IN = 8
DEFAULT_WINDOW = 1024
_NONE: Any = object()


class Submits(Protocol):
    """What is needed of an executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> "concurrent.futures.Future[Any]": ...


def map_reduce(
    executor: Submits,
    mapper: Callable[[I], T],
    items: Iterable[I],
    reducer: Callable[[T, T], T],
    *,
    initial: T = _NONE,
    chunksize: int = 1,
    fan_in: int = DEFAULT_FAN_IN,
    window: int = DEFAULT_WINDOW,
    timeout: float | None = None,
) -> T:
    """`functools.reduce(reducer, map(mapper, items))`, with both on the endpoint.

        total = farloom.map_reduce(ex, count_words, files, merge_counts, chunksize=20)

    reducer     of two neighbours, which has to be associative: where the tree is cut depends on what is ready
    initial     what stands before the first one; without it, no items at all raise TypeError
    chunksize   so many items are one call that maps them and folds the results where it runs: only the folded value
                travels
    fan_in      how many results one reducing call takes, at least 2; its inputs are the results of earlier calls
    window      how many calls are open at most
    timeout     in seconds for the whole; then TimeoutError, and what is open is cancelled

    Raises what the first failing call raises, with a note that says which; the rest is cancelled, even what runs.
    """
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1")
    leaf = _mapping(executor, mapper, reducer, chunksize)
    tree = _Tree(executor, reducer, fan_in, window, timeout)
    result: T = tree.run((functools.partial(leaf, chunk) for chunk in chunked(items, chunksize)), initial)
    return result


def tree_reduce(
    executor: Submits,
    reducer: Callable[[T, T], T],
    values: "Iterable[T | concurrent.futures.Future[T]]",
    *,
    initial: T = _NONE,
    fan_in: int = DEFAULT_FAN_IN,
    window: int = DEFAULT_WINDOW,
    timeout: float | None = None,
) -> T:
    """`functools.reduce(reducer, values)` as a tree of calls. A value may be a future, also one of another executor;
    it is taken when it has ended. Everything else is as with `map_reduce`."""
    tree = _Tree(executor, reducer, fan_in, window, timeout)
    result: T = tree.run((functools.partial(_given, value) for value in values), initial)
    return result


class _Tree:
    """The reduction under way. Nodes are (level, index); level 0 are the leaves."""

    def __init__(
        self, executor: Submits, reducer: Callable[[Any, Any], Any], fan_in: int, window: int, timeout: float | None
    ) -> None:
        if fan_in < 2:
            raise ValueError("fan_in must be >= 2")
        if window < 1:
            raise ValueError("window must be >= 1")
        self._fold = _folding(executor, reducer)
        self._fan_in = fan_in
        self._window = window
        self._until = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._ended: queue.SimpleQueue[tuple[int, int, Any]] = queue.SimpleQueue()
        self._open: dict[tuple[int, int], Any] = {}
        # What each node above has of its children, by their index.
        self._parts: dict[tuple[int, int], dict[int, Any]] = {}
        # How many nodes a level has; known from the lowest level upwards once the input has ended.
        self._sizes: list[int] = []

    def run(self, leaves: Iterator[Callable[[], Any]], initial: Any) -> Any:
        try:
            return self._run(leaves, initial)
        except BaseException:
            # 3: what the rest would give is of no use any more.
            cancel_all(list(self._open.values()), force=True)
            raise

    def _run(self, leaves: Iterator[Callable[[], Any]], initial: Any) -> Any:
        count = 0
        while True:
            while not self._sizes and len(self._open) < self._window:
                leaf = next(leaves, None)
                if leaf is None:
                    self._close_input(count)
                    break
                self._watch(0, count, leaf())
                count += 1
            if self._sizes and not self._open:
                break
            self._take(*self._next())
        if count == 0:
            if initial is _NONE:
                raise TypeError("reduction of no items with no initial value")
            return initial
        (value,) = self._parts.pop((len(self._sizes), 0)).values()
        return value if initial is _NONE else self._alone([initial, value])

    def _alone(self, values: list[Any]) -> Any:
        self._watch(-1, 0, self._fold(values))
        return self._result(*self._next())

    def _watch(self, level: int, index: int, future: Any) -> None:
        self._open[level, index] = future
        future.add_done_callback(lambda ended: self._ended.put((level, index, ended)))

    def _next(self) -> tuple[int, int, Any]:
        left = None if self._until is None else self._until - time.monotonic()
        try:
            return self._ended.get(timeout=None if left is None else max(0.0, left))
        except queue.Empty:
            raise concurrent.futures.TimeoutError(f"the reduction took more than {self._timeout} s") from None

    def _result(self, level: int, index: int, future: Any) -> Any:
        del self._open[level, index]
        try:
            return future.result()
        except BaseException as error:
            if hasattr(error, "add_note"):
                error.add_note(f"in the call for item {index}" if level == 0 else f"in a reducing call (level {level})")
            raise

    def _take(self, level: int, index: int, future: Any) -> None:
        self._place(level, index, self._result(level, index, future))

    def _place(self, level: int, index: int, value: Any) -> None:
        """A node has its value: where its siblings have theirs, the parent's call goes out."""
        parent = (level + 1, index // self._fan_in)
        parts = self._parts.setdefault(parent, {})
        parts[index] = value
        self._try(parent)

    def _try(self, node: tuple[int, int]) -> None:
        level, index = node
        parts = self._parts[node]
        wanted = self._fan_in
        if level <= len(self._sizes):
            below = self._sizes[level - 1]
            wanted = min(self._fan_in, below - index * self._fan_in)
            if below == 1:
                # The root: its one child is the end of it all.
                return
        if len(parts) < wanted:
            return
        del self._parts[node]
        values = [parts[i] for i in sorted(parts)]
        if len(values) == 1:
            self._place(level, index, values[0])
        else:
            self._watch(level, index, self._fold(values))

    def _close_input(self, count: int) -> None:
        sizes = [count]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // self._fan_in))
        self._sizes = sizes
        # The last node of each level may have waited for siblings that there are not.
        for level in range(1, len(sizes)):
            last = (level, sizes[level] - 1)
            if last in self._parts:
                self._try(last)


def _given(value: Any) -> Any:
    if isinstance(value, concurrent.futures.Future):
        return value
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_result(value)
    return future


def _mapping(
    executor: Any, mapper: Callable[[Any], Any], reducer: Callable[[Any, Any], Any], chunksize: int
) -> Callable[[list[Any]], Any]:
    """Submits the call for one chunk; its future gives the chunk's folded value."""
    if chunksize == 1:
        return lambda chunk: executor.submit(mapper, chunk[0])
    if not isinstance(executor, Executor):
        return functools.partial(executor.submit, functools.partial(_map_and_fold, mapper, reducer))
    return _registered(executor, lambda options: _describe(mapper, reducer, options))


def _folding(executor: Any, reducer: Callable[[Any, Any], Any]) -> Callable[[list[Any]], Any]:
    """Submits one reducing call."""
    if not isinstance(executor, Executor):
        return functools.partial(executor.submit, functools.partial(functools.reduce, reducer))
    return _registered(executor, lambda options: describe_reduction(reducer, options))


def _registered(
    executor: Executor, define: Callable[[dict[str, Any]], FunctionDefinition]
) -> Callable[[list[Any]], Any]:
    digest: list[bytes] = []

    def submit(values: list[Any]) -> Any:
        if not digest:
            digest.append(executor.prepare_definition(define))
        return executor.submit_registered(digest[0], encode_pickle((values,), {}))

    return submit


def _map_and_fold(mapper: Callable[[Any], Any], reducer: Callable[[Any, Any], Any], chunk: list[Any]) -> Any:
    return functools.reduce(reducer, map(mapper, chunk))


def _describe(
    mapper: Callable[[Any], Any], reducer: Callable[[Any, Any], Any], options: dict[str, Any]
) -> FunctionDefinition:
    """A definition that maps a list and folds what comes of it, whichever way the two functions travel."""
    parts = [_definition_of(fn, options) for fn in (mapper, reducer)]
    text = _PART + "".join(
        f"{name} = farloom_part({part.code.decode()!r}, {part.entry!r})\n"
        if part.format == "source"
        else f"{name} = pickle.loads(base64.b64decode({base64.b64encode(part.code)!r}))\n"
        for name, part in zip(("farloom_map", "farloom_fold"), parts, strict=True)
    )
    text += "\n\ndef farloom_map_reduce(values):\n"
    text += "    return functools.reduce(farloom_fold, map(farloom_map, values))\n"
    python = next((part.python for part in parts if part.python is not None), None)
    first, second = parts
    told = f"Maps a list and folds the results by {second.name}. {first.description}"
    return FunctionDefinition(first.name, "source", text.encode(), "farloom_map_reduce", python, told, first.options)


_PART = """import base64
import functools
import pickle


def farloom_part(text, entry):
    names = {"__name__": "farloom_part"}
    exec(compile(text, "<" + entry + ">", "exec", dont_inherit=True), names)
    return names[entry]


"""


def _definition_of(fn: Callable[..., Any], options: dict[str, Any]) -> FunctionDefinition:
    own: Callable[[dict[str, Any]], FunctionDefinition] | None = getattr(fn, "__farloom_definition__", None)
    return describe(fn, options) if own is None else own(options)
