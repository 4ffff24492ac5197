"""Objects: stored, read whole, in ranges and piece by piece; conditions, lists, tokens, and cuts on the way."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fabric import Fabric

import farloom
from farloom.objects import ObjectInfo, Objects


@pytest.fixture(scope="module")
def objects(fabric: Fabric) -> Objects:
    return farloom.Client().objects


def fails(code: str):
    class Context:
        def __enter__(self) -> None:
            return None

        def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
            assert isinstance(error, farloom.FarloomError), f"{code} was to be raised, not {error!r}"
            assert error.code == code
            return True

    return Context()


def test_bytes_text_files_and_iterators_are_stored_and_read_as_they_were(objects: Objects, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    put = objects.put("py", "text", "größe", content_type="text/plain", metadata={"run": "7"})
    assert (put.key, put.size_bytes, put.metadata) == ("text", 7, {"run": "7"})
    with objects.open("py", "text") as reader:
        assert (reader.info.content_type, reader.info.metadata, reader.info.digest) == (
            "text/plain",
            {"run": "7"},
            put.digest,
        )
        assert reader.read().decode() == "größe"
    file = io.BytesIO(b"not this" + data)
    file.seek(8)
    for body in (data, bytearray(data), memoryview(data), file, iter([data[:10], data[10:]]), io.BytesIO(data)):
        assert objects.put("py", "bytes", body).digest == hashlib.sha256(data).hexdigest()
        assert objects.get("py", "bytes") == data
    (tmp_path / "in").write_bytes(data)
    assert objects.put_file("py", "file", tmp_path / "in").size_bytes == len(data)
    objects.get_file("py", "file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert objects.put("py", "empty", b"").size_bytes == 0
    assert objects.get("py", "empty") == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_large_file_goes_in_parts_and_after_a_failure_only_those_that_are_missing(
    objects: Objects, tmp_path: Path
) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "large").write_bytes(data)
    objects.put("parts", "k", b"old")
    # All parts come; what they become is refused at the very end.
    with fails("PRECONDITION_FAILED"):
        objects.put_file("parts", "k", tmp_path / "large", part_bytes=300_000, if_none_match="*")
    kept = list(objects.all("parts", prefix="k.parts/"))
    assert len(kept) == 4
    objects.delete("parts", kept[1].key)
    objects.put("parts", kept[2].key, b"damaged")
    info = objects.put_file("parts", "k", tmp_path / "large", part_bytes=300_000, metadata={"a": "b"})
    assert (info.digest, info.metadata) == (hashlib.sha256(data).hexdigest(), {"a": "b"})
    assert objects.get("parts", "k") == data
    assert [info.key for info in objects.all("parts")] == ["k"]


def test_ranges_are_as_slices(objects: Objects) -> None:
    text = b"0123456789"
    objects.put("py", "digits", text)
    for start, end in ((0, 1), (2, 5), (7, None), (None, 4), (5, 100)):
        assert objects.get("py", "digits", start=start, end=end) == text[start:end]
    assert objects.get("py", "digits", last=3) == text[-3:]
    with objects.open("py", "digits", start=4) as reader:
        assert (reader.info.size_bytes, b"".join(reader)) == (10, b"456789")
    with fails("RANGE_INVALID"):
        objects.get("py", "digits", start=10)
    with pytest.raises(ValueError, match="empty"):
        objects.get("py", "digits", start=3, end=3)


def test_conditions_are_kept(objects: Objects) -> None:
    digest = objects.put("cond", "k", b"1", if_none_match="*").digest
    with fails("PRECONDITION_FAILED"):
        objects.put("cond", "k", b"2", if_none_match="*")
    with fails("PRECONDITION_FAILED"):
        objects.put("cond", "k", iter([b"2"]), if_match="0" * 64)
    assert objects.get("cond", "k", if_match=digest) == b"1"
    with fails("PRECONDITION_FAILED"):
        objects.delete("cond", "k", if_match="0" * 64)
    objects.delete("cond", "k", if_match=digest)
    objects.delete("cond", "k")
    assert not objects.exists("cond", "k")


def test_what_is_not_there_is_told(objects: Objects, tmp_path: Path) -> None:
    with fails("OBJECT_NOT_FOUND"):
        objects.get("py", "none")
    with fails("OBJECT_NOT_FOUND"):
        objects.head("py", "none")
    with fails("OBJECT_NAME_INVALID"):
        objects.get("py", "a/../b")
    with fails("OBJECT_NOT_FOUND"):
        objects.get_file("py", "none", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_lists_come_page_by_page_and_folder_by_folder(objects: Objects) -> None:
    keys = ["a/1", "a/ü ?#%", "b"]
    for key in keys:
        objects.put("list", key, key)
    page = objects.list("list", limit=2)
    assert ([info.key for info in page.items], page.next_cursor is not None) == (keys[:2], True)
    assert [info.key for info in objects.all("list")] == keys
    assert [info.key for info in objects.all("list", prefix="a/")] == keys[:2]
    top = objects.list("list", delimiter="/")
    assert ([info.key for info in top.items], top.prefixes) == (["b"], ["a/"])
    first = objects.list("list").items[0]
    assert isinstance(first, ObjectInfo)
    head = objects.head("list", "a/1")
    assert abs(first.modified_at - head.modified_at).total_seconds() < 1
    assert head.size_bytes == 3
    assert "list" in objects.buckets()
    assert objects.delete_many("list", [*keys, "none"]) == 3
    assert "list" not in objects.buckets()


def test_a_token_allows_what_it_was_made_for(objects: Objects, fabric: Fabric) -> None:
    objects.put("token", "in/1", b"1")
    made = objects.sign("token", ["get", "list"], prefix="in/")
    assert made.expires_in_s == 600
    guest = farloom.Client(fabric.url, api_key=made.token).objects
    assert guest.get("token", "in/1") == b"1"
    assert [info.key for info in guest.all("token", prefix="in/")] == ["in/1"]
    with fails("OBJECT_ACCESS_DENIED"):
        guest.put("token", "in/1", b"2")
    with fails("OBJECT_ACCESS_DENIED"):
        guest.get("token", "out/1")
    with fails("UNAUTHENTICATED"):
        guest.buckets()


def test_a_source_that_fails_is_told_as_it_failed(objects: Objects) -> None:
    def failing() -> Iterator[bytes]:
        yield b"some"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        objects.put("failing", "k", failing())
    assert not objects.exists("failing", "k")


class Proxy:
    """Passes connections on, and ends all of them when it is told to."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (target.hostname or "", target.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self) -> None:
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._sockets.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


def test_a_download_that_is_cut_goes_on_where_it_was(objects: Objects, fabric: Fabric) -> None:
    data = os.urandom(12_000_000)
    objects.put("cut", "k", data)
    proxy = Proxy(fabric.url)
    try:
        far = farloom.Client(proxy.url, api_key=fabric.key).objects
        got = bytearray()
        cuts = 0
        with far.open("cut", "k") as reader:
            for piece in reader:
                got += piece
                if len(got) > (cuts + 1) * 3_000_000 and cuts < 2:
                    cuts += 1
                    proxy.cut()
        assert (cuts, bytes(got) == data) == (2, True)

        cut = False
        with fails("PRECONDITION_FAILED"), far.open("cut", "k") as reader:
            for _ in reader:
                if not cut:
                    cut = True
                    objects.put("cut", "k", os.urandom(12_000_000))
                    proxy.cut()
    finally:
        proxy.close()
