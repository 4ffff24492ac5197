"""What a notebook and a terminal see: progress, short representations, links."""

from __future__ import annotations

import builtins
import concurrent.futures
import io
import sys
from typing import Any

import calls
import pytest
from fabric import Fabric

import farloom
from farloom._bar import make_bar
from farloom._future import Progress


def test_futures_come_as_they_end_with_a_bar_that_counts_failures(
    fabric: Fabric, executor: farloom.Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    futures = [executor.submit(calls.echo, i) for i in range(20)] + [executor.submit(calls.fail, "oh")]
    seen = list(farloom.as_completed(futures, 60, progress="echoes"))
    assert set(seen) == set(futures)
    shown = capsys.readouterr().err
    assert "echoes" in shown and "21/21" in shown and "failed=1" in shown
    assert list(farloom.as_completed(futures[:2])) and capsys.readouterr().err == ""


def test_without_tqdm_progress_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def none(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", none)
    for name in [name for name in sys.modules if name.startswith("tqdm")]:
        monkeypatch.delitem(sys.modules, name)
    out = io.StringIO()
    bar = make_bar(3, "work", out)
    for failed in (False, True, False):
        bar.ended(failed)
    bar.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "work: 0 of 3 done" and lines[-1] == "work: 3 of 3 done, 1 failed"


def test_a_progress_bar_says_what_ended_and_what_did_not(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    futures: list[concurrent.futures.Future[int]] = [concurrent.futures.Future() for _ in range(3)]
    futures[1].set_result(5)
    told = farloom.progress_bar(futures, "mine", timeout=0.1)
    assert (told.done, told.rest, told.reached) == ([futures[1]], [futures[0], futures[2]], False)
    assert "1/3" in capsys.readouterr().err


def test_representations_are_short_true_and_escaped(fabric: Fabric) -> None:
    with farloom.Executor() as ex:
        group = ex.task_group_id
        good, bad = ex.submit(calls.echo, 1), ex.submit(calls.fail, "<oh>")
        concurrent.futures.wait([good, bad], 60)
        assert repr(good) == f"<farloom.Future {good.task_id}, finished>"
        assert repr(bad) == f"<farloom.Future {bad.task_id}, raised ValueError>"
        assert repr(ex) == f"<farloom.Executor on main, group {group}, 0 open>"
        assert ex.url == f"{fabric.url}/v1/groups/{group}"
        # The link is of something that answers.
        assert fabric.request("GET", ex.url.removeprefix(fabric.url))["total"] == 2
        again = farloom.attach(group)
        concurrent.futures.wait(again, 60)
        assert repr(again) == f"<farloom.TaskGroup {group}, 2 of 2 done>"
        for thing in (ex, good, bad, again):
            html = thing._repr_html_()  # type: ignore[attr-defined]
            assert html.startswith("<div>") and "<oh>" not in html
        assert ex.url in ex._repr_html_() and again.url == ex.url
        assert "finished" in good._repr_html_()
    assert "shut down" in repr(ex)
    told = Progress(3, 10)
    assert str(told) == "3 of 10" and "max='10'" in told._repr_html_()
    assert farloom.Future()._repr_html_() and "pending" in repr(farloom.Future())
