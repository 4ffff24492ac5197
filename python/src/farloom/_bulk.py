"""Large bodies over HTTP: from their place in memory to the socket, and from the socket to their place, on a connection
of their own. An HTTP library copies a body several times and cuts it into small pieces; 100 MB feel that.

Answers are httpx's, so that what is tried again is decided where it is for any other request (Rest.retrying). Behind a
proxy there is no such connection, and httpx carries the body.
"""

import http.client
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

    from ._rest import Rest

_TIMEOUT_S = 120.0
"""Of silence: the service syncs a large file before it answers."""
_PIECE_BYTES = 1024 * 1024
_MAX_ANSWER_BYTES = 1024 * 1024


class Bulk:
    """Requests to one service. Safe for threads: each request has its own connection."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._base = parts.path.rstrip("/")
        self._headers = headers

    def put(self, path: str, pieces: Iterable[memoryview], headers: Mapping[str, str]) -> "httpx.Response":
        return self._exchange("PUT", path, headers, pieces, None)

    def get(self, path: str, into: memoryview, seen: Callable[[memoryview], Any]) -> "httpx.Response":
        """Fills `into`, telling of each part of it; an answer that is no success, or of another size, comes whole.
        Raises httpx.ReadError where less comes than was announced."""
        import httpx

        def fill(answer: http.client.HTTPResponse) -> bytes:
            # A proxy on the way may have cut it into chunks of no announced sum.
            if answer.status != 200 or answer.length not in (None, len(into)):
                if answer.status < 300:
                    raise httpx.ReadError(f"{answer.length} bytes came, not {len(into)}")
                return answer.read(_MAX_ANSWER_BYTES)
            at = 0
            while at < len(into):
                got = answer.readinto(into[at : at + _PIECE_BYTES])
                if not got:
                    raise httpx.ReadError(f"{at} of {len(into)} bytes came")
                seen(into[at : at + got])
                at += got
            return b""

        return self._exchange("GET", path, {}, (), fill)

    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        pieces: Iterable[memoryview],
        read: Callable[[http.client.HTTPResponse], bytes] | None,
    ) -> "httpx.Response":
        import httpx

        connection = self._connection()
        try:
            try:
                connection.connect()
            except OSError as error:
                raise httpx.ConnectError(str(error)) from error
            try:
                connection.putrequest(method, self._base + path, skip_accept_encoding=True)
                for name, value in {**self._headers, **headers, "connection": "close"}.items():
                    connection.putheader(name, value)
                connection.endheaders()
                broken = _send(connection, pieces)
                try:
                    answer = connection.getresponse()
                except (OSError, http.client.HTTPException):
                    if broken is not None:
                        raise broken from None
                    raise
                body = answer.read(_MAX_ANSWER_BYTES) if read is None else read(answer)
                # What `body` is of is told by httpx itself.
                told = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_THE_BODY]
                return httpx.Response(answer.status, headers=told, content=body)
            except (OSError, http.client.HTTPException) as error:
                raise httpx.ReadError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._is_secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        import httpx

        context = httpx.create_ssl_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)


_OF_THE_BODY = ("content-length", "transfer-encoding", "connection")


def _send(connection: http.client.HTTPConnection, pieces: Iterable[memoryview]) -> OSError | None:
    """What kept it from being sent: whoever refuses a body may close before it has come, and its answer says why."""
    try:
        for piece in pieces:
            connection.sock.sendall(piece)
    except OSError as error:
        return error
    return None


def bulk_for(rest: "Rest") -> Bulk | None:
    """None where a proxy stands between."""
    parts = urlsplit(rest.url)
    proxies = urllib.request.getproxies()
    if parts.scheme in proxies or "all" in proxies:
        host = parts.hostname or ""
        if not urllib.request.proxy_bypass(host):
            return None
    return Bulk(rest.url, rest.headers)
