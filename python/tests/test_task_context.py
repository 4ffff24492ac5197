"""What a function may know of its task and tell of it: `farloom.task`, `farloom.progress`; and what a crash tells."""

from __future__ import annotations

import itertools
import sys
import time
import types
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom


def until(what: Any, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def test_outside_a_task_there_is_none_and_progress_says_nothing() -> None:
    assert not farloom.task
    assert (farloom.task.id, farloom.task.attempt, farloom.task.fence, farloom.task.deadline) == (None,) * 4
    farloom.progress(1, 2)


def test_with_this_package_in_the_workers_environment_its_task_is_the_running_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    worker = types.ModuleType("farloom_worker_context")
    worker.task = types.SimpleNamespace(id="an id", fence=7)  # type: ignore[attr-defined]
    worker.progress = lambda done, total: told.append((done, total))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "farloom_worker_context", worker)
    assert (farloom.task.id, farloom.task.fence) == ("an id", 7)
    farloom.progress(3)
    farloom.progress(4, 5)
    assert told == [(3, None), (4, 5)]


def told_of_itself() -> dict[str, Any]:
    import farloom

    task = farloom.task
    file = getattr(farloom, "__file__", None)
    return {"id": task.id, "attempt": task.attempt, "fence": task.fence, "deadline": task.deadline, "file": file}


@pytest.mark.parametrize("installed", [False, True])
def test_a_function_knows_its_task(fabric: Fabric, installed: bool) -> None:
    env = {"PYTHONPATH": fabric.env["PYTHONPATH"]} if installed else None
    agent = f"context-{installed}"
    if installed:
        # A worker of its own, which this package is on the path of.
        fabric.agent(agent, workers=1, env=env)
    with farloom.Executor(agent if installed else None, timeout_s=50) as ex:
        future = ex.submit(told_of_itself)
        told = future.result(60)
    assert told["id"] == future.task_id
    assert told["attempt"] == 1
    assert told["fence"] > 65_536
    assert 0 < told["deadline"] <= 50
    assert (told["file"] is not None) is installed


def test_progress_reaches_the_future_and_rest_and_its_last_word_stays(
    fabric: Fabric, executor: farloom.Executor
) -> None:
    def count_up(steps: int) -> int:
        import time

        import farloom

        for step in range(steps):
            farloom.progress(step + 1, steps)
            time.sleep(0.05)
        return steps

    future = executor.submit(count_up, 40)
    seen: list[Any] = []
    in_rest = 0
    assert until(lambda: future.progress), future.exception(0)
    while not future.done():
        seen.append(future.progress)
        view = fabric.request("GET", f"/v1/tasks/{future.task_id}")
        if view["state"] == "STARTED" and "progress" in view:
            assert view["progress"]["total"] == 40
            assert 0 < view["progress"]["done"] <= 40
            in_rest += 1
        time.sleep(0.02)
    assert in_rest > 0
    heard = list(dict.fromkeys(seen))
    assert all(a.done < b.done for a, b in itertools.pairwise(heard))
    # A few in a second.
    assert 2 <= len(heard) <= 14
    assert future.result() == 40
    assert future.progress is not None and future.progress.total == 40
    assert "progress" not in fabric.request("GET", f"/v1/tasks/{future.task_id}")


def test_the_last_of_many_words_is_told_though_the_function_says_no_more(executor: farloom.Executor) -> None:
    def hurry_and_wait() -> None:
        import time

        import farloom

        for step in range(100_000):
            farloom.progress(step, 100_000)
        time.sleep(30)

    future = executor.submit(hurry_and_wait)
    assert until(lambda: future.progress == (99_999, 100_000))
    future.cancel(force=True)


def test_what_is_no_amount_fails_in_the_function(executor: farloom.Executor) -> None:
    def say(value: Any) -> None:
        import farloom

        farloom.progress(value)

    for value in (-1, float("nan"), "half"):
        with pytest.raises(ValueError):
            executor.submit(say, value).result(30)


def test_a_crash_of_the_interpreter_tells_the_signal_the_traceback_and_the_last_words(
    executor: farloom.Executor,
) -> None:
    def crash() -> None:
        import ctypes
        import sys

        print("these are the last words", file=sys.stderr)
        ctypes.string_at(0)

    with pytest.raises(farloom.WorkerDiedError) as caught:
        executor.submit(crash).result(60)
    error = caught.value
    assert "SIGSEGV" in str(error)
    assert "Segmentation fault" in str(error)
    assert "these are the last words" in (error.stderr or "")
    assert "in crash" in (error.remote_traceback or "")
    assert "farloom_worker.py" not in (error.remote_traceback or "")


# ── workers that are replaced ──────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_is_replaced_after_so_many_tasks_and_nothing_is_lost_or_run_twice(
    fabric: Fabric, tmp_path: Any
) -> None:
    def note(number: int, path: str) -> int:
        import os

        with open(path, "a") as file:
            file.write(f"{number} {os.getpid()}\n")
        return number

    fabric.agent("short-lived", workers=2, env={"FARLOOM_AGENT_RECYCLE_TASKS": "100"})
    path = tmp_path / "runs"
    with farloom.Executor("short-lived") as ex:
        assert list(ex.map(note, range(1000), itertools.repeat(str(path)))) == list(range(1000))
    lines = [line.split() for line in path.read_text().splitlines()]
    assert sorted(int(number) for number, _ in lines) == list(range(1000))
    runs: dict[str, int] = {}
    for _, pid in lines:
        runs[pid] = runs.get(pid, 0) + 1
    assert len(runs) >= 10
    assert max(runs.values()) <= 100


def test_a_worker_that_keeps_too_much_memory_is_replaced_and_one_that_gives_it_back_is_not(fabric: Fabric) -> None:
    def use(megabytes: int, keep: bool) -> int:
        import os
        import sys

        data = bytearray(megabytes << 20)
        for at in range(0, len(data), 4096):
            data[at] = 1
        if keep:
            sys.modules["farloom_test_leak"] = data  # type: ignore[assignment]
        return os.getpid()

    fabric.agent("tidy", workers=1, env={"FARLOOM_AGENT_RECYCLE_MEMORY_MB": "150"})
    with farloom.Executor("tidy") as ex:
        first = ex.submit(use, 300, False).result(60)
        assert ex.submit(use, 300, True).result(60) == first
        assert ex.submit(calls.where).result(60) != first
