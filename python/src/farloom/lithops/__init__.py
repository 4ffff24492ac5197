"""Lithops on Farloom: a compute backend and a storage backend, both named "farloom".

    import farloom.lithops, lithops

    config = {"lithops": {"backend": "farloom", "storage": "farloom"}, "farloom": {"endpoint": "cluster"}}
    with lithops.FunctionExecutor(config=config) as fexec:
        fexec.map(simulate, range(100))
        print(fexec.get_result())

Lithops looks its backends up as modules of its own; importing this one makes ours known there, in this process, on the
workers, and in the process that cleans up behind Lithops. The worker's Python needs farloom and lithops.

The section `farloom` of the configuration, all of it optional:

  url, api_key, endpoint     as for farloom.Client
  storage_bucket             the bucket of Lithops' own data; default "lithops"
  worker_processes           how many calls of a job one task runs, each in a process of its own; default 1
  runtime_memory             MiB that a task needs of its node
  buckets                    other buckets that the calls use, in which their data lie
  worker_api_key             what the workers reach the storage with; default: tokens for these buckets alone, made when
                             a job is invoked and good for an hour, in which its calls must have ended
"""

import sys
from types import ModuleType
from typing import Any

NAME = "farloom"


def _register() -> None:
    from lithops import constants

    from . import _compute, _storage
    from ._config import load_compute_config, load_storage_config

    def known(place: str, **content: Any) -> None:
        module = ModuleType(place)
        vars(module).update(content)
        sys.modules[place] = module

    known(f"lithops.serverless.backends.{NAME}", ServerlessBackend=_compute.ServerlessBackend)
    known(f"lithops.serverless.backends.{NAME}.config", load_config=load_compute_config)
    known(f"lithops.storage.backends.{NAME}", StorageBackend=_storage.StorageBackend)
    known(f"lithops.storage.backends.{NAME}.config", load_config=load_storage_config)
    if NAME not in constants.SERVERLESS_BACKENDS:
        constants.SERVERLESS_BACKENDS = (*constants.SERVERLESS_BACKENDS, NAME)


_register()
