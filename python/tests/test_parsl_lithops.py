"""Parsl and Lithops: their own programs, with an endpoint below them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabric import ROOT, Fabric

import farloom


@pytest.fixture
def parsl_loaded(fabric: Fabric, tmp_path: Path) -> Iterator[farloom.Executor]:
    parsl = pytest.importorskip("parsl")
    from farloom.parsl import FarloomExecutor

    executor = FarloomExecutor(endpoint="main", options={"cores": 1})
    config = parsl.Config(executors=[executor], run_dir=str(tmp_path), usage_tracking=0, retries=0)
    with parsl.load(config):
        yield executor
    parsl.clear()


def test_parsl_runs_a_chain_of_apps(parsl_loaded: object, tmp_path: Path) -> None:
    from parsl import bash_app, python_app
    from parsl.dataflow.errors import DependencyError
    from parsl.executors.errors import InvalidResourceSpecification

    @python_app
    def double(x):
        return 2 * x

    @python_app
    def add(inputs):
        import os

        return sum(inputs), os.getpid()

    @python_app
    def broken(x):
        raise ValueError(f"broken by {x}")

    @python_app
    def sized(x, parsl_resource_specification=None):
        return x + 1

    @bash_app
    def write(text, stdout=None):
        return f"echo {text}"

    doubled = [double(double(n)) for n in range(10)]
    total, pid = add(inputs=doubled).result(60)
    assert (total, pid != os.getpid()) == (180, True)
    with pytest.raises(ValueError, match="broken by 3"):
        broken(3).result(60)
    with pytest.raises(DependencyError):
        double(broken(3)).result(60)
    assert sized(1, parsl_resource_specification={"cores": 1, "memory": 10, "running_time_min": 1}).result(60) == 2
    with pytest.raises(InvalidResourceSpecification, match="disk"):
        sized(1, parsl_resource_specification={"disk": 1}).result(60)
    assert write("from a shell", stdout=str(tmp_path / "out")).result(60) == 0
    assert (tmp_path / "out").read_text() == "from a shell\n"


def test_lithops_maps_and_stores(fabric: Fabric, tmp_path: Path) -> None:
    pytest.importorskip("lithops")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    fabric.agent("lithops", env={"PYTHONPATH": str(ROOT / "python/src"), "HOME": str(there), "TMPDIR": str(there)})
    env = fabric.env | {"FARLOOM_ENDPOINT": "lithops", "HOME": str(here), "TMPDIR": str(here)}
    program = [sys.executable, str(Path(__file__).with_name("lithops_program.py"))]
    done = subprocess.run(program, env=env, cwd=here, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout[-12:]) == (0, "all is well\n"), done.stdout + done.stderr
    # What Lithops wrote to disk for its cleaner, and what it sent to the workers, has nobody's key.
    written = [path for folder in (here, there) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if fabric.key.encode() in path.read_bytes()]
