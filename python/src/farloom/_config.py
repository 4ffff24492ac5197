"""Settings of a client, parsed once: argument, then environment, then the configuration file that `farloom login`
and `farloom dev` write, then an error that names what to set. In a function submitted with `nested`, its task's own
token comes before environment and file. The rules are those of packages/sdk/src/options.ts."""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ._errors import ConfigError, FarloomError

# The module that a worker puts there (_context.py).
_WORKER = "farloom_worker_context"


class Config(NamedTuple):
    """Everything filled in. Times in seconds. (No dataclass: those cost the import some milliseconds.)"""

    url: str
    api_key: str
    endpoint: str | None
    connect_for_s: float = 20.0
    """How long a first connection is tried before waiting calls fail."""
    reconnect_for_s: float = 600.0
    """How long a broken connection is tried again before waiting calls fail."""
    request_attempts: int = 6
    """How often a REST request is tried while the service says it may work later."""
    task: str | None = None
    """The running task whose own token is the credential; then `api_key` is empty."""
    group: str | None = None
    """The only group that the credential reaches."""
    sign_key: str | None = None
    """A private key's file or name: what is registered and called is signed with it."""
    login: str | None = None
    """The file whose login is the credential; then `api_key` is empty."""

    def bearer(self) -> str:
        """What to show the service now. Raises FarloomError where the task is over."""
        if self.login is not None:
            from . import _login

            return _login.bearer(self.url, self.login)
        if self.task is None:
            return self.api_key
        from ._nested import bearer

        return bearer(self.task)

    def expired(self) -> None:
        """The service says that what it was shown has expired: a login shows another."""
        if self.login is not None:
            from . import _login

            _login.expired(self.url, self.login)

    def __repr__(self) -> str:
        # Without the key: a repr ends up in notebooks and logs.
        return f"Config(url={self.url!r}, endpoint={self.endpoint!r})"


def config_path(env: Mapping[str, str] | None = None) -> str:
    """FARLOOM_CONFIG, or `farloom/config.json` in the user's configuration directory."""
    values = os.environ if env is None else env
    own = values.get("FARLOOM_CONFIG")
    if own:
        return own
    base = values.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "farloom", "config.json")


def read_config_file(path: str) -> dict[str, str]:
    """The configuration file's settings, without a login; empty where there is none."""
    return _settings(_content(path))


def _settings(content: dict[str, Any]) -> dict[str, str]:
    return {name: content[name] for name in ("url", "apiKey", "endpoint") if isinstance(content.get(name), str)}


def _content(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        detail = f"{path} is not JSON; write it anew with 'farloom login'"
        raise ConfigError("REQUEST_INVALID", detail=detail) from error
    return content if isinstance(content, dict) else {}


def resolve_config(
    url: str | None = None,
    api_key: str | None = None,
    endpoint: str | None = None,
    *,
    connect_for_s: float = 20.0,
    reconnect_for_s: float = 600.0,
    request_attempts: int = 6,
    sign_key: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Config:
    """Settings with everything filled in. Raises ConfigError."""
    values = os.environ if env is None else env
    if url is None and api_key is None and env is None and _WORKER in sys.modules:
        own = _own_config(values, endpoint)
        if own is not None:
            return own
    given_url = url if url is not None else values.get("FARLOOM_URL") or None
    given_key = api_key if api_key is not None else values.get("FARLOOM_API_KEY") or None
    path = config_path(values)
    content = {} if given_url and given_key else _content(path)
    file = _settings(content)
    found_url = given_url if given_url is not None else file.get("url")
    if found_url is None:
        raise _missing("The service's address", "Set FARLOOM_URL, pass url=…, or start one here with 'farloom dev'")
    # A key or a login from the file belongs to the file's service: it is never sent anywhere else.
    is_files = _same_service(found_url, file.get("url"))
    key = given_key if given_key is not None else (file.get("apiKey") if is_files else None)
    login = path if given_key is None and is_files and _has_login(content) else None
    if login is not None:
        key = ""
    if key is None:
        raise _missing(f"The API key for {found_url}", "Set FARLOOM_API_KEY, pass api_key=…, or run 'farloom login'")
    where = endpoint if endpoint is not None else values.get("FARLOOM_ENDPOINT") or None
    if where is None and is_files:
        where = file.get("endpoint")
    return Config(
        url=_checked_url(found_url),
        api_key=key,
        endpoint=where,
        connect_for_s=connect_for_s,
        reconnect_for_s=reconnect_for_s,
        request_attempts=max(1, request_attempts),
        sign_key=sign_key if sign_key is not None else values.get("FARLOOM_SIGN_KEY") or None,
        login=login,
    )


def _has_login(content: dict[str, Any]) -> bool:
    if "login" not in content:
        return False
    from ._login import is_login

    return is_login(content["login"])


def _own_config(values: Mapping[str, str], endpoint: str | None) -> Config | None:
    """In a function: the running task's own token, where it was submitted with `nested`. Raises FarloomError where
    it should have one and has not."""
    from ._nested import grant

    try:
        own = grant()
    except FarloomError as error:
        # Without one, settings may have been given to the function in the ways that hold anywhere.
        if error.code != "NESTED_NOT_ASKED":
            raise
        if values.get("FARLOOM_URL") or "url" in read_config_file(config_path(values)):
            return None
        raise
    if own is None:
        return None
    return Config(own.url, "", endpoint or own.endpoint, task=own.task, group=own.group)


def _same_service(a: str, b: str | None) -> bool:
    return b is not None and a.rstrip("/") == b.rstrip("/")


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        detail = f'"{text}" is no address of a service; it begins with http:// or https://'
        raise ConfigError("REQUEST_INVALID", detail=detail)
    return text.rstrip("/")


def _missing(what: str, cure: str) -> ConfigError:
    return ConfigError("SETTING_MISSING", what=what, cure=cure)
