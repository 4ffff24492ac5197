"""Large values: out of band, through payload files, without being changed on the way."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import random
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import calls
import numpy as np
import pytest
from fabric import ROOT

import farloom
from farloom import _beside
from farloom._bulk import Bulk, bulk_for
from farloom._values import encode_pickle

sys.path.append(str(ROOT / "apps/endpoint-agent/src/workers/python"))
import farloom_worker as worker


def joined(data: Any) -> bytes:
    return b"".join(bytes(piece) for piece in _beside.pieces_of(data, 1 << 20))


ARRAYS = {
    "contiguous": np.arange(100_000, dtype=np.float64),
    "fortran": np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
    "strided": np.arange(200_000, dtype=np.int32)[::2],
    "empty": np.zeros((0, 5)),
    "small": np.arange(10),
    "objects": np.array([1, "two", None], dtype=object),
    "records": np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_one_side_writes_the_other_reads(name: str) -> None:
    array = ARRAYS[name]
    sent = joined(encode_pickle((array,), {"again": array}))
    (first,), more = worker.unpickle(bytearray(sent))
    np.testing.assert_array_equal(first, array)
    assert first is more["again"] or first.base is more["again"].base
    packed = worker.bundle_result(array)
    came = bytearray(b"".join(packed.pieces) if isinstance(packed, worker.Bundle) else packed)
    np.testing.assert_array_equal(_beside.load(came), array)


def test_both_sides_write_the_same_bytes() -> None:
    value = (np.arange(20_000.0), {"b": bytes(70_000)}, np.arange(30_000))
    assert joined(_beside.dump(value, pickle.dumps)) == b"".join(worker.bundle_result(value).pieces)


def test_an_array_is_a_part_of_the_memory_that_it_was_read_into() -> None:
    memory = bytearray(joined(_beside.dump(np.arange(20_000.0), pickle.dumps)))
    array = _beside.load(memory)
    assert np.shares_memory(array, np.frombuffer(memory, dtype=np.uint8))
    assert array.flags.writeable and array.flags.aligned


def test_arguments_are_what_they_were_when_the_call_was_submitted() -> None:
    array = np.zeros(20_000)
    sent = encode_pickle((array,), {})
    array[:] = 1
    assert not worker.unpickle(bytearray(joined(sent)))[0][0].any()


def test_what_cannot_be_written_to_is_not_copied() -> None:
    array = np.arange(20_000.0)
    array.flags.writeable = False
    sent = encode_pickle((array,), {})
    assert isinstance(sent, _beside.Bundle)
    assert np.shares_memory(np.frombuffer(sent.pieces[3], dtype=np.float64), array)
    assert not worker.unpickle(bytearray(joined(sent)))[0][0].flags.writeable


def test_a_bundle_that_lies_is_no_value_and_no_crash() -> None:
    good = joined(_beside.dump([np.arange(20_000.0)], pickle.dumps))
    rng = random.Random(5)
    for cut in (8, 20, 30, 60, len(good) - 1):
        with pytest.raises(pickle.UnpicklingError):
            _beside.load(bytearray(good[:cut]))
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(8, 40)] = rng.randrange(256)
        try:
            _beside.load(bad)
        except Exception as error:
            assert not isinstance(error, MemoryError), error


# ── through the fabric ─────────────────────────────────────────────────────────────────────────────────────────────


def test_arrays_go_there_and_back(executor: farloom.Executor) -> None:
    array = np.random.default_rng(1).random(400_000)
    back = executor.submit(calls.echo, array).result(60)
    np.testing.assert_array_equal(back, array)
    back[0] = 7.0


def test_many_large_arrays_at_once(executor: farloom.Executor) -> None:
    arrays = [np.full(40_000 + i, i, dtype=np.int64) for i in range(12)]
    for array, back in zip(arrays, executor.map(calls.echo, arrays), strict=True):
        np.testing.assert_array_equal(back, array)


def test_a_function_may_write_into_its_arguments_and_nobody_else_sees_it(executor: farloom.Executor) -> None:
    def first_of(array: Any) -> float:
        first = float(array[0])
        array[:] = 9.0
        return first

    array = np.arange(100_000, dtype=np.float64) + 5.0
    # The same payload file twice.
    assert [executor.submit(first_of, array).result(60) for _ in range(2)] == [5.0, 5.0]
    assert array[0] == 5.0


def test_what_a_task_returned_stands_though_the_next_one_changes_it(executor: farloom.Executor) -> None:
    def grown(step: int) -> Any:
        import sys

        kept = sys.modules.setdefault("farloom_test_kept", [])  # type: ignore[arg-type]
        if not kept:
            import numpy

            kept.append(numpy.zeros(50_000))  # type: ignore[attr-defined]
        kept[0][:] = step  # type: ignore[index]
        return kept[0]  # type: ignore[index]

    futures = [executor.submit(grown, step) for step in range(8)]
    for step, future in enumerate(futures):
        assert (future.result(60) == step).all()


def test_an_array_of_100_mb_goes_there_and_back(executor: farloom.Executor) -> None:
    array = np.frombuffer(os.urandom(12_500_000) * 8, dtype=np.float64)
    back = executor.submit(calls.echo, array).result(100)
    assert back.nbytes == 100_000_000
    np.testing.assert_array_equal(back, array)


# ── bulk ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answering(server: socket.socket, answer: bytes, read_bytes: int = 65_536) -> threading.Thread:
    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            got = b""
            while b"\r\n\r\n" not in got and len(got) < read_bytes:
                got += peer.recv(65_536)
            peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_who_refuses_a_body_before_it_has_come_is_heard(server: socket.socket) -> None:
    body = b'{"code":"PAYLOAD_TOO_LARGE"}'
    head = b"HTTP/1.1 413 Too Large\r\ncontent-length: %d\r\ncontent-type: application/problem+json\r\n\r\n" % len(body)
    serving = answering(server, head + body)
    bulk = Bulk(f"http://127.0.0.1:{server.getsockname()[1]}", {"authorization": "Bearer x"})
    response = bulk.put("/x", [memoryview(bytes(100))], {"content-length": "100"})
    serving.join()
    assert response.status_code == 413
    assert response.json() == {"code": "PAYLOAD_TOO_LARGE"}


def test_a_body_in_chunks_is_taken_as_well(server: socket.socket) -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1234\r\n6\r\n567890\r\n0\r\n\r\n"
    serving = answering(server, answer)
    memory, seen = bytearray(10), []
    bulk = Bulk(f"http://127.0.0.1:{server.getsockname()[1]}", {})
    assert bulk.get("/x", memoryview(memory), lambda part: seen.append(bytes(part))).status_code == 200
    serving.join()
    assert bytes(memory) == b"".join(seen) == b"1234567890"


@pytest.mark.parametrize("announced", [10, 20])
def test_a_body_that_ends_early_or_has_another_size_is_a_broken_transfer(server: socket.socket, announced: int) -> None:
    import httpx

    serving = answering(server, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n12345" % announced)
    bulk = Bulk(f"http://127.0.0.1:{server.getsockname()[1]}", {})
    with pytest.raises(httpx.TransportError):
        bulk.get("/x", memoryview(bytearray(10)), lambda part: None)
    serving.join()


def test_behind_a_proxy_httpx_carries_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    client = farloom.Client("http://farloom.example", api_key="k", endpoint="e")
    assert bulk_for(client.rest) is not None
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert bulk_for(client.rest) is None
    monkeypatch.setenv("no_proxy", "farloom.example")
    assert bulk_for(client.rest) is not None


def test_transfers_of_many_threads_do_not_disturb_each_other(fabric: Any) -> None:
    with farloom.Client(endpoint="main") as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        files = [os.urandom(1_500_000 + i) for i in range(6)]
        digests = list(pool.map(client.payloads.put, files))
        for data, back in zip(files, pool.map(client.payloads.get, digests, map(len, files)), strict=True):
            assert bytes(back) == data
