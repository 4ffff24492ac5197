"""Progress of many futures: a tqdm bar in terminals and notebooks, where tqdm is installed (`farloom[progress]`), and
plain lines otherwise. Futures tell of their own end; nothing polls.
"""

import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TextIO, TypeVar

from ._wait import AnyFuture, Waited, wait_for

T = TypeVar("T")
# Plain lines: for each tenth of the whole, but not more often.
_LINE_EVERY_S = 1.0


class Bar(Protocol):
    """What shows how far it is."""

    def ended(self, failed: bool) -> None: ...

    def close(self) -> None: ...


def as_completed(
    futures: Iterable[AnyFuture[T]],
    timeout: float | None = None,
    *,
    progress: bool | str = False,
) -> Iterator[AnyFuture[T]]:
    """The futures in the order in which they end, as the standard library's, with `progress` shown: True, or what it
    says in front. `timeout` in seconds for all of them; raises TimeoutError then."""
    every = list(dict.fromkeys(futures))
    if not progress:
        yield from concurrent.futures.as_completed(every, timeout)
        return
    with contextlib.closing(make_bar(len(every), progress if isinstance(progress, str) else "")) as bar:
        for future in concurrent.futures.as_completed(every, timeout):
            bar.ended(_failed(future))
            yield future


def progress_bar(futures: Iterable[AnyFuture[T]], description: str = "", *, timeout: float | None = None) -> Waited:
    """Shows how many of the futures have ended until all have, or `timeout` seconds are over, and says which, as
    `wait_for` does. To interrupt it (Ctrl-C) interrupts the watching alone: the calls run on."""
    every = list(dict.fromkeys(futures))
    until = None if timeout is None else time.monotonic() + timeout
    try:
        for _ in as_completed(every, timeout, progress=description or True):
            pass
    except concurrent.futures.TimeoutError:
        pass
    left = None if until is None else max(0.0, until - time.monotonic())
    return wait_for(every, timeout=left)


def make_bar(total: int, description: str = "", file: TextIO | None = None) -> Bar:
    """A tqdm bar, or lines where tqdm is not installed."""
    try:
        return _Tqdm(total, description, file)
    except ImportError:
        return _Lines(total, description, file)


class _Tqdm:
    def __init__(self, total: int, description: str, file: TextIO | None) -> None:
        import warnings

        with warnings.catch_warnings():
            # In a notebook without widgets it says so, and then shows text, which is what is wanted.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
        self._bar: Any = tqdm(total=total, desc=description or None, unit="task", file=file)
        self._failed = 0

    def ended(self, failed: bool) -> None:
        if failed:
            self._failed += 1
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """`12 of 100 done, 1 failed`: after each tenth, a second apart at least; the first and the last in any case."""

    def __init__(self, total: int, description: str, file: TextIO | None) -> None:
        self._total = total
        self._name = f"{description}: " if description else ""
        self._file = file
        self._done = self._failed = 0
        self._step = max(1, total // 10)
        self._told = -1
        self._told_at = 0.0
        self._tell()

    def ended(self, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._done - self._told >= self._step and time.monotonic() - self._told_at >= _LINE_EVERY_S:
            self._tell()

    def close(self) -> None:
        if self._done != self._told:
            self._tell()

    def _tell(self) -> None:
        self._told, self._told_at = self._done, time.monotonic()
        failed = f", {self._failed} failed" if self._failed else ""
        out = sys.stderr if self._file is None else self._file
        print(f"{self._name}{self._done} of {self._total} done{failed}", file=out, flush=True)


def _failed(future: "AnyFuture[Any]") -> bool:
    return future.cancelled() or future.exception() is not None
