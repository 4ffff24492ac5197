"""A pickle and the large buffers beside it, in one payload file (PROTOCOL.md section 6). The worker has the same.

    "\\0FLPICK1" · u32 number of buffers · u32 0 · u64 size of the pickle
    for each buffer: u64 where it begins, u64 its size
    the pickle
    the buffers, each from a multiple of 64 on

All little-endian. No pickle begins with a zero, so the first byte says what it is. A numpy array's data is such a
buffer: it is read into one block of memory, and the array is a part of that block.
"""

import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAGIC = b"\0FLPICK1"
ALIGN = 64
# Below this size a copy into the pickle costs less than an entry in the table. Whatever has one is never inline.
MIN_BESIDE_BYTES = 64 * 1024

_HEAD = struct.Struct("<8sIIQ")
_ENTRY = struct.Struct("<QQ")


class Bundle:
    """The pieces of one, in order. Its length is that of them all."""

    __slots__ = ("pieces", "size_bytes")

    def __init__(self, packed: bytes, views: "list[memoryview]") -> None:
        at = _HEAD.size + _ENTRY.size * len(views) + len(packed)
        head = [_HEAD.pack(MAGIC, len(views), 0, len(packed))]
        pieces: list[Buffer] = []
        for view in views:
            gap = -at % ALIGN
            pieces += (bytes(gap), view)
            head.append(_ENTRY.pack(at + gap, view.nbytes))
            at += gap + view.nbytes
        self.pieces: list[Buffer] = [b"".join(head), packed, *pieces]
        self.size_bytes = at

    def __len__(self) -> int:
        return self.size_bytes


Payload: TypeAlias = "bytes | bytearray | memoryview | Bundle"


def pieces_of(data: Payload, most_bytes: int) -> Iterator[memoryview]:
    """All of its bytes, in parts of at most that size, none of them copied."""
    for piece in data.pieces if isinstance(data, Bundle) else (data,):
        view = memoryview(piece).cast("B")
        for at in range(0, len(view), most_bytes):
            yield view[at : at + most_bytes]


class Beside:
    """The pickler's `buffer_callback`: takes large buffers out of the pickle, as they are at this moment."""

    __slots__ = ("views",)

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < MIN_BESIDE_BYTES:
            return True
        # What can be written to may be changed as soon as the call was submitted: this copy is the one there is.
        self.views.append(view if view.readonly else memoryview(bytearray(view)))
        return False


def dump(value: Any, dumps: Callable[..., bytes]) -> "bytes | Bundle":
    """The value's pickle, by pickle's or cloudpickle's `dumps`, with its large buffers beside it."""
    beside = Beside()
    packed = dumps(value, protocol=5, buffer_callback=beside)
    return Bundle(packed, beside.views) if beside.views else packed


def load(data: Buffer) -> Any:
    """The value of a pickle, or of a bundle; then its buffers are parts of `data`, which is written to by whoever
    writes to them. Raises UnpicklingError for a bundle whose table is wrong, and whatever unpickling raises."""
    if data[:8] != MAGIC:
        return pickle.loads(data)
    whole = memoryview(bytearray(data) if isinstance(data, bytes) else data)
    try:
        _, n, _, packed_size = _HEAD.unpack_from(whole)
        start = _HEAD.size + n * _ENTRY.size
        buffers = []
        if start + packed_size > len(whole):
            raise pickle.UnpicklingError("the bundle is cut short")
        for at, size in _ENTRY.iter_unpack(whole[_HEAD.size : start]):
            if at + size > len(whole):
                raise pickle.UnpicklingError("the bundle is cut short")
            buffers.append(whole[at : at + size])
    except struct.error as error:
        raise pickle.UnpicklingError("the bundle is cut short") from error
    return pickle.loads(whole[start : start + packed_size], buffers=buffers)
