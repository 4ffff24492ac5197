"""Task ids: 16 bytes, a version 8 UUID made by the client (PROTOCOL.md section 1).

    48 bits milliseconds │ 4 version (8) │ 12 random │ 2 variant │ 42 random │ 20 index in the batch

The client draws them before anything is sent, so a resubmission is the same task.
"""

import itertools
import os
import re
import threading
import time
from collections.abc import Iterator

from ._limits import MAX_BATCH_INDEX

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def new_batch_id(now_ms: int | None = None, random: bytes | None = None) -> bytes:
    """A task id whose index is 0; also the id of a new task group."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    raw = bytearray(ms.to_bytes(6, "big") + (os.urandom(10) if random is None else random))
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    raw[13] &= 0xF0
    raw[14] = raw[15] = 0
    return bytes(raw)


def task_id(batch_id: bytes, index: int) -> bytes:
    """Task `index` of a batch."""
    return batch_id[:13] + ((batch_id[13] & 0xF0) << 16 | index).to_bytes(3, "big")


class TaskIds:
    """Hands out task ids, a new batch id for every 2^20 of them. Safe for threads, without a lock on the way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batch: tuple[bytes, int, Iterator[int]] = (b"", 0, itertools.count(MAX_BATCH_INDEX))

    def next(self) -> bytes:
        while True:
            batch = self._batch
            prefix, base, count = batch
            index = next(count)
            if index < MAX_BATCH_INDEX:
                return prefix + (base | index).to_bytes(3, "big")
            with self._lock:
                if self._batch is batch:
                    raw = new_batch_id()
                    self._batch = (raw[:13], (raw[13] & 0xF0) << 16, itertools.count())


def to_uuid(raw: bytes) -> str:
    """`8-4-4-4-12` lower case hexadecimal, as people and REST see an id."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def from_uuid(text: str) -> bytes:
    """The 16 bytes of a UUID's text. Raises ValueError where it is none."""
    if not is_uuid(text):
        raise ValueError(f"{text[:80]!r} is not a UUID")
    return bytes.fromhex(text.replace("-", ""))
