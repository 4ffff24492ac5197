"""Seals (P25): a result that does not bear its worker's is fetched once more, and never handed out."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom
from farloom import _frames, _ids
from farloom._link.settle import settle_results
from farloom._link.task import Task
from farloom._payloads import sealed_result
from farloom._rest import Rest

KEY = bytes(range(16))


def seal_of(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()


def arrive(client: farloom.Client, key: bytes, data: bytes, seal: bytes, codec: int) -> farloom.Future[Any]:
    """A results frame comes for an open task of this id."""
    future: farloom.Future[Any] = farloom.Future()
    task = Task(key, b"", codec, b"", client.link.lane(bytes(16), client.new_group()), future)
    future._begin(client, task, None)
    client.link.custody.open[key] = task
    frame = {"n": 1, "ids": key, "ends": len(data).to_bytes(4, "little"), "data": data, "seals": seal}
    settle_results(frame | {"codecs": codec, "states": 1}, client.link.custody, client)
    return future


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_result_that_was_changed_on_its_way_is_fetched_once_more(fabric: Fabric, size: int) -> None:
    with farloom.Client(endpoint="main") as client, farloom.Executor(client=client) as ex:
        done = ex.submit(calls.zeros, size)
        assert done.result(30) == bytes(size)
        key = _ids.from_uuid(done.task_id)
        good = pickle.dumps(bytes(size), 5)
        codec = _frames.PICKLE
        if size > 65_536:
            good, codec = _frames.encode_reference(hashlib.sha256(good).digest(), len(good)), codec | _frames.REFERENCE
        bad = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
        assert arrive(client, key, bad, seal_of(key, good), codec).result(30) == bytes(size)


def test_one_that_bears_its_seal_is_taken_as_it_came_and_so_is_one_without(fabric: Fabric) -> None:
    data = pickle.dumps("a value", 5)
    with farloom.Client(endpoint="main") as client:
        for seal in (seal_of(KEY, data), _frames.NO_SEAL):
            assert arrive(client, KEY, data, seal, _frames.PICKLE).result(0) == "a value"


class Damaged(BaseHTTPRequestHandler):
    """A service whose results are not what their seals say, for the first `bad` of its answers."""

    bad = 2
    asked = 0

    def do_GET(self) -> None:
        cls = type(self)
        cls.asked += 1
        data = b"[1]" if cls.asked > cls.bad else b"[2]"
        self.send_response(200)
        self.send_header("farloom-seal", seal_of(KEY, b"[1]").hex())
        self.send_header("farloom-codec", "json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def damaged() -> Iterator[Rest]:
    Damaged.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Damaged)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rest = Rest(f"http://127.0.0.1:{server.server_port}", lambda: "k", "tests", 1)
    yield rest
    rest.close()
    server.shutdown()
    server.server_close()


def test_what_is_damaged_over_rest_as_well_is_an_error_and_no_value(damaged: Rest) -> None:
    Damaged.bad = 2
    with pytest.raises(farloom.FarloomError) as caught:
        sealed_result(damaged, KEY, bytes(32))
    assert caught.value.code == "RESULT_CORRUPT"
    assert _ids.to_uuid(KEY) in str(caught.value)
    assert Damaged.asked == 2


def test_what_was_damaged_once_is_taken_the_second_time(damaged: Rest) -> None:
    Damaged.bad = 1
    assert sealed_result(damaged, KEY, bytes(32)) == (_frames.JSON, b"[1]")
