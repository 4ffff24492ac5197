"""The link keeps what it took: over a killed service, a fork, another process; and it says what it cannot do."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time

import calls
import pytest
from fabric import Fabric, free_port

import farloom


def test_a_killed_and_restarted_service_loses_nothing(own_fabric: Fabric, own_client: farloom.Client) -> None:
    with farloom.Executor(client=own_client) as ex:
        assert ex.submit(calls.echo, 0).result(30) == 0
        futures = [ex.submit(calls.nap, 0.01) for _ in range(300)]
        time.sleep(0.3)
        own_fabric.service.kill()
        # Submitted into the gap: they wait for the next session.
        futures += [ex.submit(calls.echo, i) for i in range(300)]
        own_fabric.service.start("the service is ready")
        _done, waiting = concurrent.futures.wait(futures, 100)
        assert not waiting
        assert [f.result() for f in futures] == [0.01] * 300 + list(range(300))
        counts = own_client.rest.json("GET", f"/v1/groups/{ex.task_group_id}")
        assert (counts["total"], counts["open"]) == (601, 0)


def test_where_nobody_answers_calls_fail_after_their_time() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = farloom.Client(url, api_key="k", connect_for_s=0.5, request_attempts=1)
    lane = client.link.lane(bytes(16), client.new_group())
    future: farloom.Future[int] = farloom.Future()
    task = client.new_task(lane, bytes(32), b"", future)
    future._begin(client, task, None)
    client.start(task)
    with pytest.raises(farloom.FarloomError) as caught:
        future.result(30)
    assert caught.value.code == "SERVICE_UNREACHABLE"
    client.close(timeout_s=1)


def test_a_wrong_key_is_told_and_not_tried_again(fabric: Fabric) -> None:
    client = farloom.Client(fabric.url, api_key="fl_0000000000000000_wrong", endpoint="main")
    with pytest.raises(farloom.FarloomError) as caught:
        client.endpoint_id()
    assert caught.value.code == "UNAUTHENTICATED"
    future: farloom.Future[int] = farloom.Future()
    task = client.new_task(client.link.lane(bytes(16), client.new_group()), bytes(32), b"", future)
    future._begin(client, task, None)
    client.start(task)
    with pytest.raises(farloom.FarloomError) as caught:
        future.result(30)
    assert caught.value.code == "UNAUTHENTICATED"
    client.close(timeout_s=1)


def test_an_unknown_function_fails_its_call_alone(executor: farloom.Executor) -> None:
    with pytest.raises(farloom.FarloomError) as caught:
        executor.submit_registered(bytes(32), b"").result(30)
    assert caught.value.code == "FUNCTION_NOT_FOUND"
    assert executor.submit(calls.echo, 1).result(30) == 1


def test_after_a_fork_the_child_is_refused_and_may_make_its_own(executor: farloom.Executor) -> None:
    assert executor.submit(calls.echo, 1).result(30) == 1
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        told = b""
        try:
            executor.submit(calls.echo, 2)
        except RuntimeError as error:
            told = str(error).encode()
        try:
            told += b" | %d" % farloom.Executor().submit(calls.echo, 3).result(30)
        except BaseException as error:
            told += b" | " + repr(error).encode()
        os.write(write, told)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    assert "before a fork" in text
    assert text.endswith("| 3")
    # The parent's connection is as it was.
    assert executor.submit(calls.echo, 4).result(30) == 4


def test_attach_finds_the_futures_of_another_process(fabric: Fabric) -> None:
    program = """
import farloom, os, time
def slow(n):
    import time
    time.sleep(0.5)
    if n == 3:
        raise KeyError(n)
    return n * n
ex = farloom.Executor()
futures = [ex.submit(slow, n) for n in range(6)]
print(ex.task_group_id)
print(*[f.task_id for f in futures])
"""
    # It ends with its calls open: what was submitted is durable by then.
    out = subprocess.run(
        [sys.executable, "-c", program], env=fabric.env, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    group_id, ids = out.splitlines()
    group = farloom.attach(group_id)
    assert [future.task_id for future in group] == ids.split()
    assert len(list(concurrent.futures.as_completed(group, 60))) == 6
    assert [f.result() for f in group if f.exception() is None] == [0, 1, 4, 16, 25]
    assert type(group[3].exception()) is KeyError
    assert group.counts() == {"SUCCEEDED": 5, "FAILED": 1}
    # And once more, now that all of them have ended.
    assert farloom.attach(group_id)[5].result(30) == 25
    with pytest.raises(farloom.FarloomError, match="group"):
        farloom.attach("01900000-0000-8000-8000-000000000000")


def test_a_program_that_ends_has_told_everything_it_submitted(fabric: Fabric) -> None:
    program = """
import farloom
ex = farloom.Executor()
for n in range(5000):
    ex.submit(len, "x" * n)
print(ex.task_group_id)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], env=fabric.env, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert fabric.request("GET", f"/v1/groups/{out.strip()}")["total"] == 5000


def test_a_closed_client_takes_nothing(fabric: Fabric) -> None:
    with farloom.Client() as client:
        ex = farloom.Executor(client=client)
        assert ex.submit(calls.echo, 1).result(30) == 1
        left = ex.submit(calls.nap, 20)
    with pytest.raises(RuntimeError, match="closed"):
        ex.submit(calls.echo, 1)
    error = left.exception(5)
    assert isinstance(error, farloom.FarloomError)
    assert error.code == "CLIENT_CLOSED"
    # It runs on all the same; this frees its worker for the other tests.
    fabric.request("POST", f"/v1/tasks/{left.task_id}/cancel")


def test_submit_waits_while_too_much_is_unacknowledged(
    executor: farloom.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from farloom._link import custody

    monkeypatch.setattr(custody, "MAX_UNACKNOWLEDGED_TASKS", 50)
    held = []

    def calls_made() -> list[farloom.Future[int]]:
        futures = []
        for i in range(2000):
            futures.append(executor.submit(calls.echo, i))
            link = executor.client.link.custody
            held.append(link.unacknowledged + len(link.incoming))
        return futures

    assert [f.result(60) for f in calls_made()] == list(range(2000))
    assert max(held) <= 51
