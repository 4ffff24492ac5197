"""Payload files: arguments and results above 65,536 bytes travel by HTTP under their SHA-256 (PROTOCOL.md section 6).

Both ends check the digest: the service refuses bytes that do not fit their name, and what comes down is hashed here.
Large files that the service has already are not sent again; nor is anything that was stored a short while ago.
"""

import hashlib
import logging
import mmap
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from ._beside import Buffer, Payload, pieces_of
from ._errors import FarloomError
from ._frames import CODECS, PICKLE, encode_reference, seal_holds
from ._ids import to_uuid
from ._limits import MAX_PAYLOAD_BYTES
from ._rest import Rest

log = logging.getLogger("farloom")

# Up to this size, sending costs less than asking first whether the service has it: PUT says so by itself.
_ASK_FIRST_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
# From here on bytes go between the socket and their place in memory without the copies of an HTTP library (_bulk.py).
_BULK_BYTES = 1024 * 1024
# Transfers at once; each holds its bytes in memory.
MAX_TRANSFERS = 8
# Digests remembered as stored. The service keeps an unused file for 24 hours; we trust it for one.
_MAX_REMEMBERED = 4096
_REMEMBER_S = 3600.0


class Payloads:
    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._lock = threading.Lock()
        self._stored: OrderedDict[bytes, float] = OrderedDict()

    def put(self, data: Payload) -> bytes:
        """Sees to it that the service has these bytes; returns their digest."""
        if len(data) > MAX_PAYLOAD_BYTES:
            raise FarloomError("PAYLOAD_TOO_LARGE", limit=MAX_PAYLOAD_BYTES)
        hasher = hashlib.sha256()
        for piece in pieces_of(data, MAX_PAYLOAD_BYTES):
            hasher.update(piece)
        digest = hasher.digest()
        with self._lock:
            if self._stored.get(digest, 0.0) > time.monotonic():
                return digest
        path = f"/v1/payloads/{digest.hex()}"
        if len(data) <= _ASK_FIRST_BYTES or not self._has(path):
            self._send(path, data)
        with self._lock:
            self._stored[digest] = time.monotonic() + _REMEMBER_S
            self._stored.move_to_end(digest)
            if len(self._stored) > _MAX_REMEMBERED:
                self._stored.popitem(last=False)
        return digest

    def get(self, digest: bytes, size_bytes: int) -> Buffer:
        """The bytes of a payload file, checked against its name. They are the caller's, to write to as well."""
        import httpx

        from ._bulk import bulk_for

        if size_bytes > MAX_PAYLOAD_BYTES:
            raise FarloomError("PAYLOAD_TOO_LARGE", limit=MAX_PAYLOAD_BYTES)
        path = f"/v1/payloads/{digest.hex()}"
        bulk = bulk_for(self._rest) if size_bytes >= _BULK_BYTES else None
        # Fresh pages of the system's: nothing fills them twice, and they go back to it at once.
        data = bytearray(size_bytes) if bulk is None else memoryview(mmap.mmap(-1, size_bytes))
        incomplete = "the payload file came incomplete or damaged"

        def straight() -> httpx.Response:
            assert bulk is not None
            hasher = hashlib.sha256()
            response = bulk.get(path, memoryview(data), hasher.update)
            if response.status_code < 300 and hasher.digest() != digest:
                raise httpx.ReadError(incomplete)
            return response

        def once() -> httpx.Response:
            with self._rest.http.stream("GET", path, timeout=_TRANSFER_TIMEOUT_S) as response:
                if response.status_code >= 300:
                    response.read()
                    return response
                hasher = hashlib.sha256()
                at = 0
                for piece in response.iter_raw(_PIECE_BYTES):
                    end = at + len(piece)
                    if end > size_bytes:
                        break
                    data[at:end] = piece
                    hasher.update(piece)
                    at = end
                if at != size_bytes or hasher.digest() != digest:
                    # As a transport error, which is tried again: the file on the service is checked when it is written.
                    raise httpx.ReadError(incomplete)
                return response

        self._rest.retrying(once if bulk is None else straight, can_repeat=True)
        return data

    def _has(self, path: str) -> bool:
        try:
            self._rest.send("HEAD", path)
        except FarloomError as error:
            if error.status == 404 or not error.retryable:
                # Any other answer to HEAD is left to PUT, whose answer has a body that says why.
                return False
            raise
        return True

    def _send(self, path: str, data: Payload) -> None:
        from ._bulk import bulk_for

        headers = {"content-type": "application/octet-stream", "content-length": str(len(data))}
        bulk = bulk_for(self._rest) if len(data) >= _BULK_BYTES else None
        if bulk is not None:
            self._rest.retrying(lambda: bulk.put(path, pieces_of(data, _PIECE_BYTES), headers), can_repeat=True)
            return

        def pieces() -> Iterator[bytes]:
            for piece in pieces_of(data, _PIECE_BYTES):
                yield bytes(piece)

        self._rest.retrying(
            lambda: self._rest.http.put(path, content=pieces(), headers=headers, timeout=_TRANSFER_TIMEOUT_S),
            can_repeat=True,
        )


_TRANSFER_TIMEOUT_S = 600.0


def sealed_result(rest: Rest, key: bytes, seal: bytes) -> tuple[int, bytes]:
    """Codec and bytes of a task's result over REST, checked against the seal that comes with it, or else against
    `seal` (P25). One that fails is asked for once more. Raises FarloomError RESULT_CORRUPT."""
    for _ in range(2):
        answer = rest.send("GET", f"/v1/tasks/{to_uuid(key)}/result")
        told = answer.headers.get("farloom-seal")
        own = bytes.fromhex(told) if told else seal
        data = answer.content
        # REST gives a large result's bytes, where the seal is over the reference to them.
        reference = encode_reference(hashlib.sha256(data).digest(), len(data))
        if seal_holds(own, key, data) or seal_holds(own, key, reference):
            return CODECS.get(answer.headers.get("farloom-codec", ""), PICKLE), data
    raise FarloomError("RESULT_CORRUPT", id=to_uuid(key))


class Carriers:
    """A few daemon threads for transfers, started by the first one. At exit they do not hold the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self.busy = 0

    def run(self, job: Callable[[], None]) -> None:
        with self._lock:
            self.busy += 1
            if self._idle < self.busy and self._threads < MAX_TRANSFERS:
                self._threads += 1
                self._idle += 1
                threading.Thread(target=self._work, name="farloom-transfer", daemon=True).start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:
                log.exception("a transfer ended by an error of its own")
            del job
            with self._lock:
                self.busy -= 1
