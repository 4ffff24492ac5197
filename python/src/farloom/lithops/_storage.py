"""Lithops' storage on the object store. A bucket needs no making: it is there as soon as it has an object."""

import io
import logging
import os
import re
from collections.abc import Sequence
from typing import Any, cast

from lithops.storage.utils import StorageNoSuchKeyError

from .._errors import FarloomError
from ..objects import ObjectReader, Objects
from ._config import DEFAULT_BUCKET, client_of

logger = logging.getLogger(__name__)


class StorageBackend:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def get_client(self) -> Objects:
        return self._objects(None)

    def _objects(self, bucket: str | None) -> Objects:
        return client_of(self.config, bucket).objects

    def generate_bucket_name(self) -> str:
        self.config["storage_bucket"] = DEFAULT_BUCKET
        return DEFAULT_BUCKET

    def create_bucket(self, bucket_name: str) -> None:
        pass

    def head_bucket(self, bucket_name: str) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPStatusCode": 200}}

    def put_object(self, bucket_name: str, key: str, data: Any) -> bool:
        if isinstance(data, io.TextIOBase):
            data = data.read()
        self._objects(bucket_name).put(bucket_name, key, data)
        return True

    def get_object(
        self, bucket_name: str, key: str, stream: bool = False, extra_get_args: dict[str, Any] | None = None
    ) -> Any:
        """Bytes, or a file with `stream`; of a part of it with `extra_get_args={"Range": "bytes=0-99"}`."""
        part = byte_range((extra_get_args or {}).get("Range"))
        try:
            if not stream:
                return self._objects(bucket_name).get(bucket_name, key, **part)
            return io.BufferedReader(
                cast("io.RawIOBase", _File(self._objects(bucket_name).open(bucket_name, key, **part)))
            )
        except FarloomError as error:
            raise _told(error, bucket_name, key) from error

    def upload_file(
        self, file_name: str, bucket: str, key: str | None = None, extra_args: Any = None, config: Any = None
    ) -> bool:
        try:
            self._objects(bucket).put_file(bucket, key or os.path.basename(file_name), file_name)
        except (FarloomError, OSError) as error:
            logger.error(error)
            return False
        return True

    def download_file(
        self, bucket: str, key: str, file_name: str | None = None, extra_args: Any = None, config: Any = None
    ) -> bool:
        target = file_name or key
        try:
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            self._objects(bucket).get_file(bucket, key, target)
        except (FarloomError, OSError) as error:
            logger.error(error)
            return False
        return True

    def head_object(self, bucket_name: str, key: str) -> dict[str, str]:
        try:
            info = self._objects(bucket_name).head(bucket_name, key)
        except FarloomError as error:
            raise _told(error, bucket_name, key) from error
        return {
            "content-length": str(info.size_bytes),
            "content-type": info.content_type,
            "etag": info.digest,
            "last-modified": info.modified_at.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }

    def delete_object(self, bucket_name: str, key: str) -> None:
        self._objects(bucket_name).delete(bucket_name, key)

    def delete_objects(self, bucket_name: str, key_list: Sequence[str]) -> None:
        self._objects(bucket_name).delete_many(bucket_name, key_list)

    def list_objects(
        self, bucket_name: str, prefix: str | None = None, match_pattern: str | None = None
    ) -> list[dict[str, Any]]:
        found = self._objects(bucket_name).all(bucket_name, prefix=prefix or "")
        return [
            {"Key": info.key, "Size": info.size_bytes, "LastModified": info.modified_at, "ETag": info.digest}
            for info in found
        ]

    def list_keys(self, bucket_name: str, prefix: str | None = None) -> list[str]:
        return [info.key for info in self._objects(bucket_name).all(bucket_name, prefix=prefix or "")]


def byte_range(text: str | None) -> dict[str, Any]:
    """`bytes=0-99`, `bytes=100-` and `bytes=-100` as the arguments of `Objects.get`."""
    if text is None:
        return {}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match.group(0) == "bytes=-":
        raise ValueError(f"{text!r} is no range of bytes")
    first, last = match.groups()
    if not first:
        return {"last": int(last)}
    return {"start": int(first)} | ({"end": int(last) + 1} if last else {})


def _told(error: FarloomError, bucket: str, key: str) -> Exception:
    return StorageNoSuchKeyError(bucket, key) if error.code == "OBJECT_NOT_FOUND" else error


class _File(io.RawIOBase):
    """An object on its way here, as a file that can be read."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(iter(self._reader), b"")
        some = self._rest[: len(buffer)]
        buffer[: len(some)] = some
        self._rest = self._rest[len(some) :]
        return len(some)

    def close(self) -> None:
        self._reader.close()
        super().close()
