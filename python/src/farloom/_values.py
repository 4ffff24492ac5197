"""Arguments to bytes, results to values.

Arguments are always `[args, kwargs]`. Pickle protocol 5 by default, as a Python worker takes it; cloudpickle only
where plain pickle cannot: it fails, or it names something by `__main__`, which on the worker is another module, or
by a module that the program wants to travel by value (`cloudpickle.register_pickle_by_value`).
"""

import json
import pickle
import sys
from typing import Any

from . import _beside
from ._beside import Bundle
from ._errors import FarloomError
from ._frames import JSON, MSGPACK, PICKLE, pack_value, unpack_value

_dumps = pickle.dumps


def encode_pickle(args: tuple[Any, ...], kwargs: dict[str, Any]) -> "bytes | Bundle":
    """`[args, kwargs]` as a pickle, large buffers beside it. Raises what cloudpickle raises where there is no way."""
    try:
        buffers: list[pickle.PickleBuffer] = []
        data: bytes | Bundle = _dumps((args, kwargs), 5, buffer_callback=buffers.append)
        if buffers:
            data = _beside.dump((args, kwargs), _dumps)
        head = data if isinstance(data, bytes) else data.pieces[1]
        if b"__main__" not in head and not _names_by_value(head):
            return data
    except Exception:
        pass
    import cloudpickle

    return _beside.dump((args, kwargs), cloudpickle.dumps)


def _names_by_value(data: Any) -> bool:
    """Whether a pickle may name a module that is to travel by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    names = cloudpickle.list_registry_pickle_by_value()
    return bool(names) and any(name.encode() in data for name in names)


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any], codec: int) -> "bytes | Bundle":
    """`[args, kwargs]` in a codec that crosses languages, or as a pickle."""
    if codec == PICKLE:
        return encode_pickle(args, kwargs)
    try:
        if codec == JSON:
            text = json.dumps([args, kwargs], allow_nan=False, separators=(",", ":"), ensure_ascii=False)
            return text.encode()
        return pack_value([args, kwargs])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        name = "JSON" if codec == JSON else "msgpack"
        raise FarloomError("VALUE_UNENCODABLE", path="an argument", codec=name, detail=error) from error


def decode_result(codec: int, data: _beside.Buffer, task_id: str) -> Any:
    """A result's value. Raises FarloomError RESULT_UNREADABLE where it cannot be read here."""
    # A function without a result, or one that never gave one, has no bytes.
    if len(data) == 0:
        return None
    try:
        if codec == PICKLE:
            return _beside.load(data)
        if codec == JSON:
            return json.loads(bytes(data))
        if codec == MSGPACK:
            return unpack_value(bytes(data))
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        raise FarloomError("RESULT_UNREADABLE", id=task_id, detail=detail) from error
    raise FarloomError("RESULT_UNREADABLE", id=task_id, detail=f"codec {codec} is not known here")
