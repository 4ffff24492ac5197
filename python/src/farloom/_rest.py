"""The REST API: one pooled connection set, tries again what the service says may work later, Retry-After kept.

httpx is imported by the first request, not by `import farloom`.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._errors import parse_problem, unreachable

if TYPE_CHECKING:
    import httpx

REQUEST_TIMEOUT_S = 60.0
_FIRST_S = 0.1
_LONGEST_S = 15.0
# A service that restarts is met within this time: the wait of the first tries, some five seconds together.
_QUICK_S = 0.5
_QUICK_TRIES = 14


def reconnect_s(tries: int) -> float:
    """The wait before try number `tries` (from 0) of a connection: short for some seconds, then doubled each time."""
    if tries < _QUICK_TRIES:
        ceiling = min(_QUICK_S, _FIRST_S * 2.0**tries)
    else:
        ceiling = min(_LONGEST_S, _QUICK_S * 2.0 ** min(tries - _QUICK_TRIES + 1, 12))
    return ceiling / 2 + random.random() * (ceiling / 2)


def backoff_s(tries: int) -> float:
    """The wait before try number `tries` (from 0): doubled each time, full jitter above half."""
    ceiling = min(_LONGEST_S, _FIRST_S * 2.0 ** min(tries, 12))
    return ceiling / 2 + random.random() * (ceiling / 2)


class Rest:
    """Requests to one service with one key. Safe for threads."""

    def __init__(
        self,
        url: str,
        bearer: Callable[[], str],
        software: str,
        attempts: int,
        expired: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self._expired = expired
        self._bearer = bearer
        self._software = software
        self._attempts = attempts
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of a request that is sent now: a credential may be replaced while it is used."""
        return {
            "authorization": f"Bearer {self._bearer()}",
            "user-agent": self._software,
            "accept": "application/json, application/problem+json, */*",
        }

    def _authorize(self, request: "httpx.Request") -> "httpx.Request":
        request.headers["authorization"] = f"Bearer {self._bearer()}"
        return request

    @property
    def http(self) -> "httpx.Client":
        with self._lock:
            if self._http is None:
                import httpx

                self._http = httpx.Client(
                    base_url=self.url,
                    headers=self.headers,
                    auth=self._authorize,
                    timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=10.0),
                    limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
                )
            return self._http

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> "httpx.Response":
        """The answer, where it is a success; its error is raised otherwise, after the tries that make sense."""
        can_repeat = method != "POST" if idempotent is None else idempotent
        params = {k: v for k, v in (query or {}).items() if v is not None}

        def once() -> "httpx.Response":
            return self.http.request(method, path, json=body, params=params, headers=dict(headers or {}))

        return self.retrying(once, can_repeat)

    def retrying(self, once: Any, can_repeat: bool, attempts: int | None = None) -> "httpx.Response":
        """Calls `once` until it gives a success, or an error that another try would not mend."""
        import httpx

        attempt = 0
        while True:
            try:
                response: httpx.Response = once()
                if response.status_code < 300:
                    return response
                error = parse_problem(response.status_code, response.read(), response.headers.get("retry-after"))
            except httpx.TransportError as broken:
                error = unreachable(self.url, _words(broken))
                error.__cause__ = broken
            except httpx.HTTPError as broken:
                raise unreachable(self.url, _words(broken)) from broken
            if error.code == "TOKEN_EXPIRED":
                self._expired()
            # A 429 or 503 of the service took nothing; a broken connection may have, so only what can be repeated is.
            again = error.retryable and (can_repeat or error.code != "SERVICE_UNREACHABLE")
            if not again or attempt + 1 >= (attempts or self._attempts):
                raise error
            time.sleep(max(error.retry_after_s or 0.0, backoff_s(attempt)))
            attempt += 1

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON; None where it has no body."""
        response = self.send(method, path, **options)
        return response.json() if response.content else None

    def pages(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.json("GET", path, query={**(query or {}), "cursor": cursor})
            items: Iterable[Any] = page["items"]
            yield from items
            cursor = page.get("nextCursor")
            if cursor is None:
                return

    def close(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def forget(self) -> None:
        """In a forked child: the sockets are the parent's."""
        self._lock = threading.Lock()
        self._http = None


def _words(error: BaseException) -> str:
    import errno

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "nothing listens there"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
