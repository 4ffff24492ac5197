"""One WebSocket to the service: `websockets` without I/O over a socket of our own, plain or TLS.

One thread receives; any thread sends. Nobody ever blocks in the socket: what the kernel does not take at once
waits in `buffered` bytes, and the receiving thread sends it when the socket is writable again.

  C1  The protocol and TLS objects are touched only under the lock.
  C2  What was framed first is sent first: framing and queueing are one step.
"""

import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._errors import FarloomError, parse_problem, unreachable
from .._limits import CLIENT_LINK_PATH, MAX_FRAME_BYTES, SUBPROTOCOL

if TYPE_CHECKING:
    import ssl

# From the dial to the open WebSocket: a service that is alive answers in milliseconds, over continents in a second.
CONNECT_TIMEOUT_S = 10.0
_RECEIVE_BYTES = 256 * 1024


class LinkEnded(Exception):
    """A connection is over, for this reason. Whether another may do better is said here alone."""

    def __init__(self, error: FarloomError) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_fatal = not (error.retryable or error.code == "LINK_REPLACED")


class Connection:
    def __init__(self, url: str, api_key: str, software: str) -> None:
        from websockets.client import ClientProtocol
        from websockets.typing import Subprotocol
        from websockets.uri import parse_uri

        self._url = url
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self._tls_in: Any = None
        self._tls_out: Any = None
        self._out: deque[memoryview] = deque()
        self.buffered = 0
        self._parts: list[bytes] = []
        address = "ws" + url.removeprefix("http") + CLIENT_LINK_PATH
        self._protocol = ClientProtocol(
            parse_uri(address), subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=MAX_FRAME_BYTES
        )
        self._headers = {"Authorization": f"Bearer {api_key}", "User-Agent": software}

    @property
    def sock(self) -> socket.socket:
        assert self._sock is not None
        return self._sock

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def open(self) -> None:
        """Connects and upgrades. Raises LinkEnded."""
        parts = urlsplit(self._url)
        secure = parts.scheme == "https"
        host = parts.hostname or "localhost"
        port = parts.port or (443 if secure else 80)
        until = time.monotonic() + CONNECT_TIMEOUT_S
        try:
            self._sock = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                self._handshake_tls(host)
            self._upgrade(until)
            self._sock.setblocking(False)
        except LinkEnded:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise self._broken(_words(error), error) from error

    def _handshake_tls(self, host: str) -> None:
        import ssl

        self._tls_in, self._tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        self._tls = context.wrap_bio(self._tls_in, self._tls_out, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            self.sock.sendall(self._tls_out.read())
            if done:
                return
            data = self.sock.recv(_RECEIVE_BYTES)
            if not data:
                raise OSError("the connection closed during the TLS handshake")
            self._tls_in.write(data)

    def _upgrade(self, until: float) -> None:
        from websockets.exceptions import InvalidStatus
        from websockets.protocol import State

        protocol = self._protocol
        request = protocol.connect()
        for name, value in self._headers.items():
            if name in request.headers:
                del request.headers[name]
            request.headers[name] = value
        protocol.send_request(request)
        while True:
            for data in protocol.data_to_send():
                if data:
                    self.sock.sendall(self._sealed(data))
            if protocol.handshake_exc is not None:
                refusal = protocol.handshake_exc
                if isinstance(refusal, InvalidStatus):
                    answer = refusal.response
                    told = answer.headers.get("Retry-After")
                    raise LinkEnded(parse_problem(answer.status_code, bytes(answer.body or b""), told))
                raise self._broken(str(refusal), refusal)
            if protocol.state is State.OPEN:
                return
            if time.monotonic() > until:
                raise self._broken("no answer in time", None)
            raw = self.sock.recv(_RECEIVE_BYTES)
            if raw:
                plain = self._opened(raw)
                if plain:
                    protocol.receive_data(plain)
            else:
                protocol.receive_eof()
                if protocol.handshake_exc is None:
                    raise self._broken("the connection closed", None)

    # ── data ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, message: bytes) -> None:
        """Queues a binary message and sends what the kernel takes. Never blocks; a broken socket is told by receive."""
        with self._lock:
            if self._sock is None:
                return
            try:
                self._protocol.send_binary(message)
            except Exception:
                # The protocol is closing: the receiving thread learns why.
                return
            self._pump()

    def pump(self) -> None:
        """Sends what waits; called when the socket is writable."""
        with self._lock:
            if self._sock is not None:
                self._pump()

    def _pump(self) -> None:
        out = self._out
        for data in self._protocol.data_to_send():
            if data:
                sealed = memoryview(self._sealed(data))
                self.buffered += len(sealed)
                out.append(sealed)
        try:
            while out:
                sent = self.sock.send(out[0])
                self.buffered -= sent
                if sent == len(out[0]):
                    out.popleft()
                else:
                    out[0] = out[0][sent:]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # Whoever receives finds the connection broken.
            out.clear()
            self.buffered = 0

    def receive(self) -> list[bytes]:
        """What has come: whole binary messages. Raises LinkEnded. Called by one thread, when the socket is readable."""
        from websockets.frames import Opcode

        try:
            raw = self.sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise self._broken(_words(error), error) from error
        if not raw:
            raise self._broken("the connection closed", None)
        with self._lock:
            plain = self._opened(raw)
            if not plain:
                return []
            self._protocol.receive_data(plain)
            events = self._protocol.events_received()
            self._pump()
        messages: list[bytes] = []
        for event in events:
            opcode: Any = getattr(event, "opcode", None)
            if opcode is Opcode.BINARY or opcode is Opcode.CONT:
                frame: Any = event
                if frame.fin and not self._parts:
                    messages.append(bytes(frame.data))
                else:
                    self._parts.append(bytes(frame.data))
                    if frame.fin:
                        messages.append(b"".join(self._parts))
                        self._parts = []
            elif opcode is Opcode.TEXT:
                raise LinkEnded(FarloomError("FRAME_INVALID", detail="a text message"))
            elif opcode is Opcode.CLOSE and not messages:
                raise self._broken(f"the connection closed ({self._protocol.close_code})", None)
        return messages

    # ── end ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Says so where that still goes out at once, and ends. Idempotent."""
        with self._lock:
            sock, self._sock = self._sock, None
            if sock is None:
                return
            try:
                self._protocol.send_close(1000)
                for data in self._protocol.data_to_send():
                    if data:
                        sock.send(self._sealed(data))
            except Exception:
                pass
            self._out.clear()
            sock.close()

    def forget(self) -> None:
        """In a forked child: lets go of the descriptor; the parent's connection lives on."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _sealed(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        view = memoryview(data)
        while len(view):
            view = view[self._tls.write(view) :]
        sealed: bytes = self._tls_out.read()
        return sealed

    def _opened(self, raw: bytes) -> bytes:
        if self._tls is None:
            return raw
        import ssl

        self._tls_in.write(raw)
        pieces: list[bytes] = []
        try:
            while True:
                piece = self._tls.read(_RECEIVE_BYTES)
                if not piece:
                    break
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(pieces)

    def _broken(self, detail: str, cause: BaseException | None) -> LinkEnded:
        error = unreachable(self._url, detail)
        error.__cause__ = cause
        return LinkEnded(error)


def _words(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
