"""Objects: named bytes in buckets, up to 5 GiB each, kept until they are deleted.

    client = farloom.Client()
    client.objects.put("results", "run/7.npy", data)
    data = client.objects.get("results", "run/7.npy")

Nothing is in memory whole but what `get` returns; of a large file that is sent, one part is. A download that is cut
goes on where it was, with the same bytes or not at all; whole objects are compared with their SHA-256.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ._errors import FarloomError
from ._rest import Rest, backoff_s

if TYPE_CHECKING:
    import httpx

_PIECE_BYTES = 1024 * 1024
# Syncing 5 GiB to a slow disk takes a while after the last byte.
_TRANSFER_TIMEOUT_S = 600.0
# Cuts in a row without a byte between them, after which a download is given up.
_MAX_CUTS = 5
# Keys in one deletion.
_DELETE_AT_ONCE = 1000
_META = "x-farloom-meta-"
# What is in memory, and sent again where a connection breaks: half a minute at 2 MB/s. 5 GiB are 80 parts.
_PART_BYTES = 64 * 1024 * 1024
# Leaves room in a key of 1,024 bytes for what a part's name adds.
_MAX_KEY_BYTES_IN_PARTS = 990

ObjectBody = bytes | bytearray | memoryview | str | IO[bytes] | Iterable[bytes]
"""What can be stored. Bytes, text and seekable files are sent again where a connection breaks; others only once."""


@dataclass(frozen=True)
class ObjectInfo:
    bucket: str
    key: str
    size_bytes: int
    digest: str
    """SHA-256 of the bytes, 64 hexadecimal digits; for `if_match` and `if_none_match`."""
    content_type: str
    metadata: Mapping[str, str]
    """What the writer wrote beside it: names in lower case, texts in ASCII, 2 KiB in all."""
    modified_at: datetime
    """In UTC; from `get`, `open` and `head` in whole seconds."""


@dataclass(frozen=True)
class ObjectPage:
    items: list[ObjectInfo]
    prefixes: list[str] = field(default_factory=list)
    """With a delimiter: what keys that go on behind it have in common."""
    next_cursor: str | None = None


@dataclass(frozen=True)
class ObjectToken:
    token: str
    """For an `Authorization: Bearer` header, or as the `api_key` of a client that does nothing else."""
    expires_in_s: float
    path: str
    """What it is for, percent-encoded."""


class ObjectReader:
    """An object on its way here: iterate over its pieces, or `read` all of it. A context manager."""

    def __init__(self, info: ObjectInfo, first: "httpx.Response", reopen: "Callable[[str], httpx.Response]") -> None:
        self.info: Final = info
        self._response = first
        self._reopen = reopen
        self._pieces = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def read(self) -> bytes:
        return b"".join(self._pieces)

    def __enter__(self) -> "ObjectReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def _run(self) -> Iterator[bytes]:
        import httpx

        at, end = _span(self._response, self.info.size_bytes)
        hasher = hashlib.sha256() if (at, end) == (0, self.info.size_bytes) else None
        cuts = 0
        while True:
            try:
                for piece in self._response.iter_raw(_PIECE_BYTES):
                    at += len(piece)
                    cuts = 0
                    if hasher is not None:
                        hasher.update(piece)
                    yield piece
            except httpx.TransportError as broken:
                if cuts >= _MAX_CUTS:
                    raise FarloomError("SERVICE_UNREACHABLE", url=self._response.url, detail=str(broken)) from broken
            if at >= end:
                break
            time.sleep(backoff_s(cuts))
            cuts += 1
            self._response.close()
            self._response = self._reopen(f"bytes={at}-{end - 1}")
        if hasher is not None:
            _verify(hasher.hexdigest(), self.info.digest)


class Objects:
    """Objects of one service and owner. Safe for threads."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def put(
        self,
        bucket: str,
        key: str,
        body: ObjectBody,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """Stores an object, or replaces it whole; durable when this returns.

        `if_match` is the digest that what is there must have; `if_none_match="*"` creates only.
        """
        make, size, can_repeat = _source(body)
        headers = {"content-type": content_type, **{_META + name: text for name, text in (metadata or {}).items()}}
        headers |= _conditions(if_match, if_none_match)
        if size is not None:
            headers["content-length"] = str(size)
        hasher = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for piece in make():
                hasher.update(piece)
                yield piece

        def once() -> "httpx.Response":
            nonlocal hasher
            hasher = hashlib.sha256()
            return self._rest.http.put(
                _path(bucket, key), content=pieces(), headers=headers, timeout=_TRANSFER_TIMEOUT_S
            )

        # What can be sent only once is not sent again after a refusal either: it may have flowed in part.
        response = self._rest.retrying(once, can_repeat, None if can_repeat else 1)
        info = _info_of_json(response.json())
        _verify(hasher.hexdigest(), info.digest)
        return info

    def put_file(
        self,
        bucket: str,
        key: str,
        path: "str | os.PathLike[str]",
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        part_bytes: int = _PART_BYTES,
    ) -> ObjectInfo:
        """Stores a file of this machine.

        One above `part_bytes` goes in parts, `KEY.parts/…`, which become one object at the end; a part whose connection
        breaks is sent again alone, and a second call after a crash sends only what is missing.
        """
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size <= part_bytes or len(key.encode()) > _MAX_KEY_BYTES_IN_PARTS:
                return self.put(
                    bucket,
                    key,
                    file,
                    content_type=content_type,
                    metadata=metadata,
                    if_match=if_match,
                    if_none_match=if_none_match,
                )
            # The same file, unchanged, finds its parts again.
            stamp = f"{stat.st_size} {stat.st_mtime_ns} {part_bytes}"
            prefix = f"{key}.parts/{hashlib.sha256(stamp.encode()).hexdigest()[:16]}/"
            sources, digest = self._put_parts(bucket, prefix, file, part_bytes)
        made = {"key": key, "from": sources, "removeSources": True, "digest": digest, "contentType": content_type}
        response = self._rest.retrying(
            lambda: self._rest.http.post(
                f"/v1/objects/{quote(bucket, safe='')}/compose",
                json=made | {"metadata": dict(metadata or {})},
                headers=_conditions(if_match, if_none_match),
                timeout=_TRANSFER_TIMEOUT_S,
            ),
            False,
        )
        return _info_of_json(response.json())

    def _put_parts(self, bucket: str, prefix: str, file: IO[bytes], part_bytes: int) -> tuple[Sequence[str], str]:
        """The parts' keys, and the SHA-256 of the whole."""
        there = {info.key: info.digest for info in self.all(bucket, prefix=prefix)}
        whole = hashlib.sha256()
        keys: list[str] = []
        while part := file.read(part_bytes):
            whole.update(part)
            key = f"{prefix}{len(keys):05}"
            if there.get(key) != hashlib.sha256(part).hexdigest():
                self.put(bucket, key, part)
            keys.append(key)
        return keys, whole.hexdigest()

    def get(
        self,
        bucket: str,
        key: str,
        *,
        start: int | None = None,
        end: int | None = None,
        last: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """All bytes, or those from `start` up to and not including `end`, or the `last` so many."""
        with self.open(bucket, key, start=start, end=end, last=last, if_match=if_match) as reader:
            return reader.read()

    def open(
        self,
        bucket: str,
        key: str,
        *,
        start: int | None = None,
        end: int | None = None,
        last: int | None = None,
        if_match: str | None = None,
    ) -> ObjectReader:
        """As `get`, piece by piece; `info` of what it gives tells what the object is."""
        first = self._stream(bucket, key, _range(start, end, last), if_match)
        info = _info_of_headers(bucket, key, first.headers)
        return ObjectReader(info, first, lambda rest: self._stream(bucket, key, rest, info.digest))

    def get_file(self, bucket: str, key: str, path: "str | os.PathLike[str]", **options: Any) -> ObjectInfo:
        """Into a file, which appears when all of it has come; options as for `get`."""
        target = Path(path)
        part = target.with_name(f"{target.name}.{secrets.token_hex(6)}.part")
        with self.open(bucket, key, **options) as reader:
            try:
                with open(part, "xb") as file:
                    for piece in reader:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
            return reader.info

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """What the object is. Raises OBJECT_NOT_FOUND where there is none."""
        try:
            response = self._rest.send("HEAD", _path(bucket, key))
        except FarloomError as error:
            if error.status != 404:
                raise
            # An answer to HEAD has no body that could say what is missing.
            raise FarloomError("OBJECT_NOT_FOUND", name=f"{bucket}/{key}") from error
        return _info_of_headers(bucket, key, response.headers)

    def exists(self, bucket: str, key: str) -> bool:
        try:
            self.head(bucket, key)
        except FarloomError as error:
            if error.code == "OBJECT_NOT_FOUND":
                return False
            raise
        return True

    def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """One that is not there is no error, unless `if_match` names it."""
        self._rest.send("DELETE", _path(bucket, key), headers=_conditions(if_match, None))

    def delete_many(self, bucket: str, keys: Sequence[str]) -> int:
        """How many there were."""
        deleted = 0
        path = f"/v1/objects/{quote(bucket, safe='')}/delete"
        for at in range(0, len(keys), _DELETE_AT_ONCE):
            some = {"keys": list(keys[at : at + _DELETE_AT_ONCE])}
            deleted += int(self._rest.json("POST", path, body=some, idempotent=True)["deleted"])
        return deleted

    def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ObjectPage:
        """One page, in the order of the keys' bytes."""
        query = {"prefix": prefix, "delimiter": delimiter, "cursor": cursor, "limit": limit}
        page = self._rest.json("GET", f"/v1/objects/{quote(bucket, safe='')}", query=query)
        return ObjectPage([_info_of_json(item) for item in page["items"]], page["prefixes"], page.get("nextCursor"))

    def all(self, bucket: str, *, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix`, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(bucket, prefix=prefix, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def buckets(self) -> "Sequence[str]":
        """The buckets that have an object, at most 1,000."""
        return [bucket["name"] for bucket in self._rest.json("GET", "/v1/objects")["items"]]

    def sign(
        self,
        bucket: str,
        methods: Sequence[str],
        *,
        key: str | None = None,
        prefix: str | None = None,
        expires_in_s: int = 600,
    ) -> ObjectToken:
        """A token for one key, or for all that begin with a prefix, to hand to somebody else for an hour at most.

        `methods` are of get, head, list, put and delete.
        """
        what: dict[str, Any] = {"bucket": bucket, "methods": [*methods], "expiresInSeconds": expires_in_s}
        what |= {name: text for name, text in (("key", key), ("prefix", prefix)) if text is not None}
        made = self._rest.json("POST", "/v1/objects/sign", body=what, idempotent=True)
        return ObjectToken(made["token"], made["expiresInMs"] / 1000, made["path"])

    def _stream(self, bucket: str, key: str, range_: str | None, if_match: str | None) -> "httpx.Response":
        http = self._rest.http
        headers = _conditions(if_match, None)
        if range_ is not None:
            headers["range"] = range_
        return self._rest.retrying(
            lambda: http.send(
                http.build_request("GET", _path(bucket, key), headers=headers, timeout=_TRANSFER_TIMEOUT_S), stream=True
            ),
            True,
        )


def _source(body: ObjectBody) -> "tuple[Callable[[], Iterator[bytes]], int | None, bool]":
    """How to make its pieces, its size where that is known, and whether they can be made again."""
    if isinstance(body, str):
        body = body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body).cast("B")
        return (
            lambda: (bytes(view[at : at + _PIECE_BYTES]) for at in range(0, len(view), _PIECE_BYTES)),
            len(view),
            True,
        )
    read = getattr(body, "read", None)
    if read is None:
        pieces = iter(body)
        return lambda: pieces, None, False
    file: Any = body
    if not file.seekable():
        return lambda: iter(lambda: read(_PIECE_BYTES), b""), None, False
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start

    def again() -> Iterator[bytes]:
        file.seek(start)
        return iter(lambda: read(_PIECE_BYTES), b"")

    return again, size, True


def _path(bucket: str, key: str) -> str:
    return f"/v1/objects/{quote(bucket, safe='')}/{quote(key, safe='')}"


def _conditions(if_match: str | None, if_none_match: str | None) -> dict[str, str]:
    def tag(digest: str) -> str:
        return digest if digest == "*" else f'"{digest}"'

    both = (("if-match", if_match), ("if-none-match", if_none_match))
    return {name: tag(digest) for name, digest in both if digest is not None}


def _range(start: int | None, end: int | None, last: int | None) -> str | None:
    if last is not None:
        if start is not None or end is not None:
            raise ValueError("give start and end, or last")
        return f"bytes=-{last}"
    if start is None and end is None:
        return None
    if end is not None and end <= (start or 0):
        raise ValueError("the range is empty: end is not behind start")
    return f"bytes={start or 0}-{'' if end is None else end - 1}"


def _span(response: "httpx.Response", size_bytes: int) -> tuple[int, int]:
    """Which bytes an answer has: from the first up to and not including the second."""
    if response.status_code != 206:
        return 0, size_bytes
    first, last = response.headers["content-range"].removeprefix("bytes ").partition("/")[0].split("-")
    return int(first), int(last) + 1


def _info_of_headers(bucket: str, key: str, headers: "httpx.Headers") -> ObjectInfo:
    total = headers.get("content-range", "").rpartition("/")[2] or headers["content-length"]
    return ObjectInfo(
        bucket,
        key,
        int(total),
        headers["etag"].strip('"'),
        headers.get("content-type", "application/octet-stream"),
        {name[len(_META) :]: text for name, text in headers.items() if name.startswith(_META)},
        parsedate_to_datetime(headers["last-modified"]).astimezone(timezone.utc),
    )


def _info_of_json(item: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        item["bucket"],
        item["key"],
        item["sizeBytes"],
        item["digest"],
        item["contentType"],
        item["metadata"],
        datetime.fromisoformat(item["modifiedAt"].replace("Z", "+00:00")),
    )


def _verify(actual: str, digest: str) -> None:
    if actual != digest:
        raise FarloomError("OBJECT_MISMATCH", actual=actual, digest=digest)
