"""The section `farloom` of a Lithops configuration.

1. It holds a key only where the user wrote one there: what Lithops writes to disk for its cleaner has no other.
2. Unpickled anywhere, it makes the backends known: the cleaner is a process that has imported lithops alone.
"""

import os
from typing import Any

from .._client import Client
from .._config import resolve_config
from .._errors import ConfigError

DEFAULT_BUCKET = "lithops"
_DEFAULTS: dict[str, Any] = {
    "runtime": "farloom",
    "runtime_memory": None,
    "runtime_timeout": 86_400,
    "max_workers": 1000,
    "worker_processes": 1,
}


class Section(dict[str, Any]):
    def __reduce__(self) -> Any:
        return Section, (dict(self),)


def load_storage_config(config_data: dict[str, Any]) -> None:
    given = config_data.get("farloom") or {}
    section = Section(given)
    if "url" not in section:
        config = resolve_config(None, given.get("api_key"), given.get("endpoint"))
        section["url"] = config.url
        if config.endpoint is not None:
            section.setdefault("endpoint", config.endpoint)
    section.setdefault("storage_bucket", DEFAULT_BUCKET)
    config_data["farloom"] = section


def load_compute_config(config_data: dict[str, Any]) -> None:
    load_storage_config(config_data)
    for name, value in _DEFAULTS.items():
        config_data["farloom"].setdefault(name, value)
    # Lithops' own default storage needs another provider's account.
    config_data.setdefault("lithops", {}).setdefault("storage", "farloom")


_clients: dict[tuple[int, str, str | None], Client] = {}


def client_of(section: dict[str, Any], bucket: str | None = None) -> Client:
    """The client of a section; each process has its own, as Lithops forks one for every call.

    On a worker it is for one bucket: each has a token of its own.
    """
    tokens = section.get("tokens") or {}
    key = tokens.get(bucket or section.get("storage_bucket")) or section.get("api_key")
    if key is None and tokens:
        allowed = ", ".join(sorted(tokens))
        raise ConfigError(
            "SETTING_MISSING",
            what=f"A token for the bucket {bucket}",
            cure=f"The workers may use {allowed}; name others in the setting buckets of the section farloom",
        )
    place = (os.getpid(), str(section["url"]), key)
    client = _clients.get(place)
    if client is None:
        client = _clients[place] = Client(section["url"], api_key=key, endpoint=section.get("endpoint"))
    return client
