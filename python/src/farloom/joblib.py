"""A joblib backend: `Parallel` loops, and with them scikit-learn, run on an endpoint.

    import farloom.joblib, joblib

    farloom.joblib.register()
    with joblib.parallel_config(backend="farloom", endpoint="cluster"):
        search.fit(X, y)

One function is shipped once; a batch of a loop's calls is its argument, so the worker's Python needs joblib and what
the calls use. Small calls are batched as joblib's own process backend does.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from ._executor import Executor
from ._text import TextFunction

_RUN = TextFunction(
    "run_joblib_batch", "def run_joblib_batch(batch):\n    return batch()\n", "Runs a batch of calls of a joblib loop."
)


def register(*, make_default: bool = False) -> None:
    """Makes the backend "farloom" known to joblib; with `make_default`, the one that every loop uses."""
    register_parallel_backend("farloom", FarloomBackend, make_default=make_default)


class FarloomBackend(AutoBatchingMixin, ParallelBackendBase):
    """What `parallel_config(backend="farloom", …)` makes.

    executor    an Executor of your own, which stays open; otherwise one is made for each loop
    endpoint    where it runs; default FARLOOM_ENDPOINT, then the configuration file
    options     those of Executor: cores, memory_mb, retries, …
    """

    supports_retrieve_callback = True
    # All workers of the endpoint, as nothing of this machine is used up.
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        executor: Executor | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is not None and (endpoint is not None or options):
            raise TypeError("give an executor, or an endpoint and options for one")
        self._given = executor
        self._options = {"endpoint": endpoint, **options}
        self._own: Executor | None = None
        self._open: set[Future[Any]] = set()

    @property
    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = Executor(**self._options)
        return self._own

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once: as asked for; -1 for the endpoint's workers, -2 for one less."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, self._executor.max_workers + 1 + n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Future[Any]:
        future = self._executor.submit(_RUN, func)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stops what still runs of a loop that has failed."""
        executor = self._executor
        tasks = [task for future in list(self._open) if (task := getattr(future, "_task", None)) is not None]
        executor.client.cancel(tasks, force=True)

    def terminate(self) -> None:
        """The loop has ended. (One that is gone on with makes another executor, for the same client.)"""
        if self._own is not None:
            self._own.shutdown(wait=False)
            self._own = None
        self.reset_batch_stats()

    def __reduce__(self) -> Any:
        raise TypeError("a farloom backend does not travel: in a worker a nested loop runs in threads")
