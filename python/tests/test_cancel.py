"""Cancelling: what waits ends at once, what runs only by force, and a shutdown leaves nothing behind."""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path

import calls
import pytest
from fabric import Fabric

import farloom


def occupy(executor: farloom.Executor, folder: Path, seconds: float) -> list[farloom.Future[float]]:
    """Both workers busy, and known to be."""
    notes = [folder / f"busy-{i}" for i in range(2)]
    futures = [executor.submit(calls.nap_and_note, seconds, str(note)) for note in notes]
    until = time.monotonic() + 30
    while not all(note.exists() for note in notes) and time.monotonic() < until:
        time.sleep(0.02)
    return futures


def test_what_waits_is_cancelled_at_once(executor: farloom.Executor, tmp_path: Path) -> None:
    busy = occupy(executor, tmp_path, 3)
    waiting = [executor.submit(calls.echo, i) for i in range(5)]
    started = time.monotonic()
    assert all(future.cancel() for future in waiting)
    assert time.monotonic() - started < 2.5
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[0].result()
    assert [future.result(30) for future in busy] == [3, 3]


def test_what_runs_is_left_alone_unless_forced(executor: farloom.Executor, tmp_path: Path) -> None:
    busy = occupy(executor, tmp_path, 30)
    started = time.monotonic()
    assert not busy[0].cancel()
    assert time.monotonic() - started < 4
    assert busy[0].running()
    assert busy[0].cancel(force=True)
    assert busy[0].cancelled()
    assert busy[1].cancel(force=True)
    assert time.monotonic() - started < 20
    assert executor.submit(calls.echo, 1).result(30) == 1


def test_what_has_ended_cannot_be_cancelled(executor: farloom.Executor) -> None:
    future = executor.submit(calls.echo, 1)
    assert future.result(30) == 1
    assert not future.cancel()
    assert not future.cancel(force=True)


def test_a_shutdown_that_cancels_lets_what_runs_end(fabric: Fabric, tmp_path: Path) -> None:
    ex = farloom.Executor()
    busy = occupy(ex, tmp_path, 1.5)
    note = tmp_path / "never"
    waiting = [ex.submit(calls.nap_and_note, 0, str(note)) for _ in range(300)]
    ex.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    assert [future.result(0) for future in busy] == [1.5, 1.5]
    assert not note.exists()
    # The service says the same: nothing of them is left there.
    assert ex.client.rest.json("GET", f"/v1/groups/{ex.task_group_id}")["open"] == 0


def test_a_cancelled_call_wakes_whoever_waits(executor: farloom.Executor, tmp_path: Path) -> None:
    busy = occupy(executor, tmp_path, 2)
    future = executor.submit(calls.echo, 1)
    seen: list[bool] = []
    future.add_done_callback(lambda f: seen.append(f.cancelled()))
    assert future.cancel()
    assert seen == [True]
    assert concurrent.futures.wait([future], 0).done == {future}
    concurrent.futures.wait(busy)
