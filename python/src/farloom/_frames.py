"""Frames: one MessagePack map each (P1), and the two batches as columns (PROTOCOL.md section 1).

A batch is cut and joined with whole-column operations, so that a task of a large batch costs well below a
microsecond here. Arguments and results stay opaque bytes.
"""

import hashlib
import itertools
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from ._limits import MAX_FRAME_BYTES, MAX_FRAME_ELEMENTS

if TYPE_CHECKING:
    from ._link.task import Task

Frame: TypeAlias = dict[str, Any]

JSON, MSGPACK, PICKLE, REFERENCE = 1, 2, 3, 128
CODECS = {"json": JSON, "msgpack": MSGPACK, "pickle": PICKLE}
STATES = {1: "SUCCEEDED", 2: "FAILED", 3: "CANCELLED", 4: "TIMED_OUT", 5: "LOST"}
SUCCEEDED, FAILED, CANCELLED, TIMED_OUT, LOST = 1, 2, 3, 4, 5
REASONS = (
    "none",
    "user_error",
    "worker_died",
    "poisoned",
    "result_too_large",
    "not_authorised",
    "endpoint_deleted",
    "function_invalid",
    "environment",
    "run_time_limit",
    "queue_time_limit",
    "deadline",
    "cancelled_by_user",
    "agent_lost",
    "arguments_invalid",
    "result_invalid",
    "nonzero_exit",
    "function_deleted",
    "out_of_memory",
    "runtime_missing",
    "payload_missing",
    "payload_corrupt",
)

SEAL_BYTES = 32
NO_SEAL = bytes(SEAL_BYTES)

_sha256 = hashlib.sha256
_REFERENCE = struct.Struct("<32sQ")
_SWAP = sys.byteorder == "big"


class FrameInvalid(Exception):
    """Bytes that are not a frame that may come here."""


def encode(frame: Frame) -> bytes:
    packed: bytes = msgpack.packb(frame, use_bin_type=True)
    return packed


def decode(data: bytes) -> Frame:
    """The frame in `data`; raises FrameInvalid for anything else, and for nothing else."""
    try:
        frame = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_bin_len=MAX_FRAME_BYTES,
            max_array_len=MAX_FRAME_ELEMENTS,
            max_map_len=MAX_FRAME_ELEMENTS,
            max_ext_len=0,
        )
    except Exception as error:
        raise FrameInvalid(f"no MessagePack: {error}") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("t"), str):
        raise FrameInvalid("a frame is a map with a kind (t)")
    return frame


def unpack_value(data: bytes) -> Any:
    """A value that travelled as MessagePack."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def pack_value(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=True)
    return packed


def u32_column(values: "array[int]") -> bytes:
    if _SWAP:
        values.byteswap()
    return values.tobytes()


def read_u32_column(column: bytes, n: int) -> tuple[int, ...]:
    return struct.unpack(f"<{n}I", column)


def build_tasks(tasks: "Sequence[Task]", endpoint: bytes, group: bytes, again: bool) -> Frame:
    """These tasks as one frame."""
    n = len(tasks)
    data = [task.data for task in tasks]
    codecs: int | bytes = tasks[0].codec
    digest = tasks[0].digest
    fns = [digest]
    fn: bytes | None = None
    if n > 1:
        column = bytes([task.codec for task in tasks])
        if column.count(column[0]) != n:
            codecs = column
        digests = [task.digest for task in tasks]
        if digests.count(digest) != n:
            index: dict[bytes, int] = {}
            numbers = array("H", [index.setdefault(d, len(index)) for d in digests])
            if _SWAP:
                numbers.byteswap()
            fns, fn = list(index), numbers.tobytes()
    frame: Frame = {
        "t": "tasks",
        "n": n,
        "ids": b"".join([task.key for task in tasks]),
        "fns": fns,
        "codecs": codecs,
        "ends": u32_column(array("I", itertools.accumulate(map(len, data)))),
        "args": b"".join(data),
        "seals": b"".join([_sha256(task.key + task.data).digest() for task in tasks]),
    }
    if fn is not None:
        frame["fn"] = fn
    options = {str(i): task.options for i, task in enumerate(tasks) if task.options is not None}
    if options:
        frame["opts"] = options
    frame["endpoint"] = endpoint
    frame["group"] = group
    if again:
        frame["again"] = 1
    return frame


def check_results(frame: Frame) -> tuple[int, ...]:
    """The `ends` of a results frame whose columns fit together; raises FrameInvalid otherwise."""
    try:
        n = frame["n"]
        if not 1 <= n <= 4096 or len(frame["ids"]) != 16 * n:
            raise FrameInvalid("results: column ids does not have n entries")
        for name, width in (("codecs", 1), ("states", 1), ("reasons", 1), ("attempts", 4), ("runUs", 4), ("seals", 32)):
            column = frame.get(name)
            if isinstance(column, bytes) and len(column) != width * n:
                raise FrameInvalid(f"results: column {name} does not have n entries")
        ends = read_u32_column(frame["ends"], n)
        if ends[-1] != len(frame["data"]):
            raise FrameInvalid("results: ends does not end where the bytes do")
        return ends
    except (KeyError, TypeError, struct.error) as error:
        raise FrameInvalid(f"results: {error!r}") from None


def seal_holds(seal: bytes, key: bytes, data: bytes) -> bool:
    """Whether these bytes of a task are those that were sealed (P25); without a seal, they are taken."""
    return seal == NO_SEAL or _sha256(key + data).digest() == seal


def duration_ms(wire: int) -> float:
    """Milliseconds of a duration on the wire (P5)."""
    return wire / 1000 if wire < 0x80000000 else float(wire - 0x80000000)


def encode_reference(digest: bytes, size_bytes: int) -> bytes:
    """The 40 bytes that stand for a payload file."""
    return _REFERENCE.pack(digest, size_bytes)


def decode_reference(data: bytes) -> tuple[bytes, int]:
    """Digest and size; raises FrameInvalid where it is no reference."""
    if len(data) != _REFERENCE.size:
        raise FrameInvalid(f"a reference has {_REFERENCE.size} bytes")
    digest, size = _REFERENCE.unpack(data)
    return digest, size
