"""A login of `farloom login`: an access token of ten minutes and a refresh token, in the configuration file. Programs
that run at the same time share it, in Python and TypeScript alike (packages/sdk/src/login.ts keeps the same rules).

  1. A refresh token is good once, so refreshing is for one at a time: whoever has made the lock file. It reads the file
     again first, as another may have refreshed meanwhile.
  2. Before a refresh token is shown, the nonce of the exchange is written beside it: where the answer gets lost, by the
     network or the death of this process, the next exchange repeats it and gets the same answer.
  3. The file is written whole or not at all, for its owner alone.
"""

import json
import os
import secrets
import threading
import time
from typing import Any

from ._errors import ConfigError, FarloomError, parse_problem, unreachable

# A token with less than this left is exchanged: a request takes time to arrive.
_LEAST_LEFT_S = 30.0
# A lock that is older was left by a process that died.
_STALE_S = 30.0
_LOCK_WAIT_S = 45.0
_LOCK_LOOK_S = 0.05
_EXCHANGE_TIMEOUT_S = 15.0

_known: dict[tuple[str, str], dict[str, Any]] = {}
_mutex = threading.Lock()


def _in_child() -> None:
    """After a fork: whoever held it is not here."""
    global _mutex
    _mutex = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def is_login(value: object) -> bool:
    """Whether this is what the configuration file holds of a login."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("accessToken"), str)
        and isinstance(value.get("refreshToken"), str)
        and isinstance(value.get("expiresAtMs"), (int, float))
    )


def bearer(url: str, path: str) -> str:
    """The access token of the login in the file `path`, a fresh one where it is about to expire. Raises FarloomError:
    REFRESH_INVALID where the login has ended, SERVICE_UNREACHABLE."""
    with _mutex:
        known = _known.get((url, path))
        if known is None or not _is_fresh(known):
            known = _refresh(url, path, known)
            _known[(url, path)] = known
        return str(known["accessToken"])


def expired(url: str, path: str) -> None:
    """The service says that the token has expired, whatever this machine's clock says."""
    with _mutex:
        known = _known.get((url, path))
        if known is not None:
            _known[(url, path)] = {**known, "expiresAtMs": 0}


def _is_fresh(login: dict[str, Any]) -> bool:
    return float(login["expiresAtMs"]) / 1000 - time.time() > _LEAST_LEFT_S


def _refresh(url: str, path: str, known: dict[str, Any] | None) -> dict[str, Any]:
    # The first reading needs no lock: the file is always whole.
    if known is None:
        stored = _read(path)["login"]
        if _is_fresh(stored):
            return dict(stored)
    lock = _lock(f"{path}.lock")
    try:
        config = _read(path)
        stored = config["login"]
        # Another process was first (1).
        if (known is None or stored["accessToken"] != known["accessToken"]) and _is_fresh(stored):
            return dict(stored)
        nonce = stored.get("nonce")
        if not isinstance(nonce, str):
            nonce = secrets.token_urlsafe(32)
            _write(path, {**config, "login": {**stored, "nonce": nonce}})
        login = _exchange(url, stored["refreshToken"], nonce)
        _write(path, {**config, "login": login})
        return login
    finally:
        os.close(lock)
        os.unlink(f"{path}.lock")


def _exchange(url: str, refresh_token: str, nonce: str) -> dict[str, Any]:
    import httpx

    asked_at = time.time()
    request = {"grant_type": "refresh_token", "refresh_token": refresh_token, "nonce": nonce}
    try:
        response = httpx.post(f"{url}/v1/oauth/token", json=request, timeout=_EXCHANGE_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise unreachable(url, str(error) or type(error).__name__) from error
    if response.status_code != 200:
        raise parse_problem(response.status_code, response.content, response.headers.get("retry-after"))
    answer = response.json()
    return {
        "accessToken": answer["access_token"],
        "refreshToken": answer["refresh_token"],
        "expiresAtMs": int((asked_at + answer["expires_in"]) * 1000),
    }


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            config: Any = json.load(file)
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or not is_login(config.get("login")):
        raise FarloomError("REFRESH_INVALID")
    return config


def _write(path: str, config: dict[str, Any]) -> None:
    aside = f"{path}.{os.getpid()}.new"
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(config, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _lock(path: str) -> int:
    """Makes the lock file (1): nothing tells when another process lets go of it, so it is looked at."""
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            pass
        try:
            if time.time() - os.stat(path).st_mtime > _STALE_S:
                os.unlink(path)
                continue
        except FileNotFoundError:
            continue
        if time.monotonic() > until:
            raise ConfigError("REQUEST_INVALID", detail=f"{path} is held by another process; remove it")
        time.sleep(_LOCK_LOOK_S)
