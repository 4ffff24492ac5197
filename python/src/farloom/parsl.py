"""A Parsl executor: apps run on an endpoint.

    import farloom.parsl, parsl

    parsl.load(parsl.Config(executors=[farloom.parsl.FarloomExecutor(endpoint="cluster")]))

Parsl keeps its graph, its retries and its checkpoints here; what is ready is submitted. Files are where the workers
see them: on a file system that both sides share. The worker's Python needs cloudpickle, and parsl for `bash_app`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from parsl.executors.base import ParslExecutor
from parsl.executors.errors import InvalidResourceSpecification
from parsl.utils import RepresentationMixin

from ._executor import Executor

# Of Parsl's resource specification, and what they are here; running_time_min is in minutes there, in seconds here.
_RESOURCES = {"cores": "cores", "memory": "memory_mb", "gpus": "gpus", "running_time_min": "timeout_s"}


class FarloomExecutor(ParslExecutor, RepresentationMixin):
    """For `parsl.Config(executors=[…])`.

    label             its name in Parsl
    endpoint          where it runs; default FARLOOM_ENDPOINT, then the configuration file
    options           those of farloom.Executor, as a mapping: cores, memory_mb, timeout_s, …
    storage_access    Parsl's staging providers; default: Parsl's own
    working_dir       where staged files lie, on the workers

    An app's `parsl_resource_specification` may have cores, memory (MB), gpus and running_time_min.
    """

    def __init__(
        self,
        label: str = "farloom",
        endpoint: str | None = None,
        options: dict[str, Any] | None = None,
        storage_access: Sequence[Any] | None = None,
        working_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.label = label
        self.endpoint = endpoint
        self.options = options
        self.storage_access = storage_access
        self.working_dir = working_dir
        self._main: Executor | None = None
        # By resource specification: they share a client and a task group.
        self._executors: dict[tuple[tuple[str, Any], ...], Executor] = {}

    def start(self) -> None:
        self._main = Executor(self.endpoint, **(self.options or {}))
        self._executors[()] = self._main

    @property
    def task_group_id(self) -> str:
        """The group of everything submitted here: `farloom.attach(id)` finds it again."""
        return self._started().task_group_id

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        future = self._executor_for(resource_specification).submit(func, *args, **kwargs)
        # Parsl writes it into its log beside its own number.
        future.parsl_executor_task_id = future.task_id  # type: ignore[attr-defined]
        return future

    def _executor_for(self, specification: dict[str, Any]) -> Executor:
        unknown = set(specification) - set(_RESOURCES)
        if unknown:
            raise InvalidResourceSpecification(unknown, f"A farloom executor knows {', '.join(_RESOURCES)}.")
        key = tuple(sorted(specification.items()))
        executor = self._executors.get(key)
        if executor is None:
            main = self._started()
            wanted = {_RESOURCES[name]: value for name, value in key}
            if "timeout_s" in wanted:
                wanted["timeout_s"] *= 60
            options = {**(self.options or {}), **wanted, "client": main.client, "group": main.task_group_id}
            executor = self._executors[key] = Executor(self.endpoint, **options)
        return executor

    def _started(self) -> Executor:
        if self._main is None:
            raise RuntimeError(f"the executor {self.label} is not started: parsl.load starts it")
        return self._main

    def shutdown(self) -> None:
        """Parsl has waited for what it wants to have; what still runs is stopped."""
        for executor in self._executors.values():
            executor.cancel_all(force=True)
            executor.shutdown(wait=False)
        super().shutdown()

    def monitor_resources(self) -> bool:
        """Parsl's own monitoring would need a way from the workers to this process."""
        return False
