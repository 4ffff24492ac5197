"""Lithops' compute backend: a job's calls are tasks of an endpoint, which run Lithops' own handler.

1. Lithops hears of a call's end by its storage alone. A task that never got so far (its worker died, lithops is not
   installed there) is written there by this process, so that nobody waits for it for ever.
2. What travels with a task has tokens for buckets in the place of the user's key.
"""

import copy
import logging
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any

from lithops.monitoring import create_call_status
from lithops.storage import InternalStorage
from lithops.utils import BackendType
from lithops.version import __version__ as lithops_version

from .._executor import Executor
from .._text import TextFunction
from ._config import client_of

logger = logging.getLogger(__name__)

_TOKEN_S = 3600
_METHODS = ("get", "head", "list", "put", "delete")
_RUN = TextFunction(
    "run_lithops_calls",
    "def run_lithops_calls(payload):\n    from farloom.lithops._worker import run\n\n    return run(payload)\n",
    "Runs calls of a Lithops job by Lithops' own handler.",
)
_LOOK = TextFunction(
    "look_at_lithops",
    "def look_at_lithops():\n"
    "    import farloom.lithops\n"
    "    from lithops.worker.utils import get_runtime_metadata\n\n"
    "    return get_runtime_metadata()\n",
    "Tells which modules a worker has, for Lithops.",
)


class ServerlessBackend:
    def __init__(self, config: dict[str, Any], internal_storage: Any) -> None:
        self.name = "farloom"
        self.type = BackendType.BATCH.value
        self.config = config
        self.internal_storage = internal_storage
        # By the memory that a task needs.
        self._executors: dict[int | None, Executor] = {}
        self._open: dict[str, set[Future[Any]]] = {}

    def _executor(self, memory_mb: int | None) -> Executor:
        executor = self._executors.get(memory_mb)
        if executor is None:
            client = client_of(self.config)
            executor = Executor(self.config.get("endpoint"), client=client, memory_mb=memory_mb)
            self._executors[memory_mb] = executor
        return executor

    # ── the runtime: the endpoint's Python, as it is ───────────────────────────────────────────────────────────────

    def deploy_runtime(self, runtime_name: str, memory: int | None, timeout: int) -> dict[str, Any]:
        found: dict[str, Any] = self._executor(memory).submit(_LOOK).result()
        return found

    def get_runtime_key(self, runtime_name: str, runtime_memory: int | None, version: str = lithops_version) -> str:
        endpoint = client_of(self.config).endpoint_id(self.config.get("endpoint")).hex()
        return "/".join((self.name, version, endpoint, runtime_name))

    def get_runtime_info(self) -> dict[str, Any]:
        names = ("runtime_memory", "runtime_timeout", "max_workers")
        return {"runtime_name": self.config["runtime"], **{name: self.config[name] for name in names}}

    def build_runtime(self, runtime_name: str, file: str, extra_args: Any = ()) -> None:
        raise NotImplementedError("what a farloom endpoint's Python has is its owner's to install")

    def delete_runtime(self, runtime_name: str, memory: int | None, version: str = lithops_version) -> None:
        pass

    def list_runtimes(self, runtime_name: str = "all") -> list[Any]:
        return []

    def clean(self, **_: Any) -> None:
        self.clear()

    # ── calls ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def invoke(self, runtime_name: str, memory: int | None, payload: dict[str, Any]) -> str:
        executor = self._executor(memory)
        sent = {**payload, "config": self._for_workers(payload["config"])}
        open_ = self._open.setdefault(payload["job_key"], set())
        for some in _portions(sent, max(1, self.config["worker_processes"])):
            future = executor.submit(_RUN, some)
            open_.add(future)
            future.add_done_callback(open_.discard)
            future.add_done_callback(partial(self._ended, {**some, "config": payload["config"]}))
        return executor.task_group_id

    def _for_workers(self, config: dict[str, Any]) -> dict[str, Any]:
        sent = copy.deepcopy(config)
        section = sent["farloom"] = dict(sent["farloom"])
        section.pop("api_key", None)
        own = section.pop("worker_api_key", None)
        if own is not None:
            section["api_key"] = own
        elif sent["lithops"]["storage"] == "farloom":
            objects = client_of(self.config).objects
            buckets = {section["storage_bucket"], *(section.get("buckets") or ())}
            section["tokens"] = {
                bucket: objects.sign(bucket, _METHODS, prefix="", expires_in_s=_TOKEN_S).token for bucket in buckets
            }
        return sent

    def _ended(self, payload: dict[str, Any], future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            # Not here: this is the thread by which the storage's answers would come in.
            client_of(self.config)._carriers.run(lambda: self._tell_failed(payload, error))

    def _tell_failed(self, payload: dict[str, Any], error: BaseException) -> None:
        storage = InternalStorage(self.internal_storage.get_storage_config())
        failure = str(pickle.dumps((type(error), error, None)))
        for call_id in payload["call_ids"]:
            job = SimpleNamespace(**{**payload, "call_id": call_id, "start_tstamp": time.time()})
            try:
                if storage.get_call_status(job.executor_id, job.job_id, call_id) is not None:
                    continue
                status = create_call_status(job, storage)
                status.add("exception", True)
                status.add("exc_info", failure)
                status.add("worker_end_tstamp", time.time())
                status.send_finish_event()
            except Exception:
                logger.exception("the end of call %s could not be told", call_id)

    def clear(self, job_keys: Any = None) -> None:
        """Cancels what waits of these jobs; without jobs the executor is going away, and what runs is stopped too."""
        for key in list(self._open) if job_keys is None else job_keys:
            futures = self._open.pop(key, set())
            tasks = [task for future in list(futures) if (task := getattr(future, "_task", None)) is not None]
            client_of(self.config).cancel(tasks, force=job_keys is None)


def _portions(payload: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """A payload for each task, with its own calls' ranges of the data."""
    call_ids, ranges = payload["call_ids"], payload["data_byte_ranges"]
    for at in range(0, len(call_ids), size):
        ids = call_ids[at : at + size]
        own = [ranges[int(call_id)] for call_id in ids]
        yield {**payload, "call_ids": ids, "data_byte_ranges": own, "worker_processes": size}
