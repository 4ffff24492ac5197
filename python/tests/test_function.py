"""`@farloom.function`: here when called, there when submitted; and how it travels."""

from __future__ import annotations

import linecache
import math
import operator
from typing import Any

import calls
import pytest
import shipped
from fabric import Fabric

import farloom
from farloom._environment import check_environment
from farloom._requirements import definition_options, memory_mb, required, walltime_ms
from farloom.shipping import describe


def test_a_call_runs_here_and_a_submission_there(fabric: Fabric) -> None:
    assert shipped.cube(3) == 27
    assert shipped.cube.submit(3).result(30) == 27
    assert list(shipped.cube.map(range(5))) == [0, 1, 8, 27, 64]
    assert list(shipped.cube.map(range(5), chunksize=2)) == [0, 1, 8, 27, 64]
    here = farloom.function(calls.where)
    assert here() == calls.where() != here.submit().result(30)


def test_the_record_says_what_the_function_asks_for(fabric: Fabric) -> None:
    client = shipped.cube.executor.client
    record = client.rest.json("GET", f"/v1/functions/{shipped.cube.register()}")
    assert record["name"] == "cube"
    assert record["timeoutMs"] == 60_000
    assert record["resources"] == {"cores": 1, "memoryMb": 256}
    assert record["format"] == shipped.cube.shipped_as == "source"
    assert "as source text" in record["description"]
    record = client.rest.json("GET", f"/v1/functions/{shipped.cubes.register()}")
    assert (record["mode"], record["retries"]) == ("at_least_once", 2)


def test_an_executor_takes_a_decorated_function_and_its_options(executor: farloom.Executor) -> None:
    assert executor.submit(shipped.cube, 2).result(30) == 8
    assert list(executor.map(shipped.cube, range(4), chunksize=2)) == [0, 1, 8, 27]
    record = executor.client.rest.json("GET", f"/v1/functions/{executor.prepare(shipped.cube).hex()}")
    assert record["timeoutMs"] == 60_000


def test_other_options_make_another_function(fabric: Fabric) -> None:
    other = shipped.cube.on("main", memory="1GB", walltime=5)
    assert other.submit(2).result(30) == 8
    assert other.definition.options["resources"] == {"cores": 1, "memoryMb": 954}
    with pytest.raises(farloom.FarloomError) as caught:
        shipped.cube.on("no-such-place").submit(1)
    assert caught.value.code == "ENDPOINT_NOT_FOUND"
    with pytest.raises(TypeError, match="racks"):
        shipped.cube.on(racks=3)


def test_all_calls_of_a_group_are_found_by_its_id(fabric: Fabric) -> None:
    group = shipped.cube.submit_all(range(6))
    assert group.results(30) == [0, 1, 8, 27, 64, 125]
    assert farloom.attach(group.id).results(30) == group.results()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("scaled", (5,)),
        ("circle", (2,)),
        ("root_of", ("<a/>",)),
        ("drawn", ()),
        ("is_list", ([],)),
        ("of_table", ("a",)),
        ("even", (10,)),
    ],
)
def test_what_a_function_refers_to_travels_as_text(executor: farloom.Executor, name: str, args: Any) -> None:
    fn = getattr(shipped, name)
    definition = describe(fn)
    assert definition.format == "source", definition.description
    assert definition.python is None
    assert executor.submit(fn, *args).result(30) == fn(*args)


def test_a_coroutine_function_gives_its_result(executor: farloom.Executor) -> None:
    assert executor.submit(shipped.later, 1).result(30) == 2


def test_decorated_functions_call_each_other_there(fabric: Fabric) -> None:
    assert shipped.cubes.shipped_as == shipped.factorial.shipped_as == "source"
    assert shipped.cubes.submit(4).result(30) == [0, 1, 8, 27]
    assert shipped.factorial.submit(5).result(30) == 120


def test_functions_that_are_installed_travel_by_name(executor: farloom.Executor) -> None:
    for fn in (pow, math.sqrt, operator.mul, len):
        assert describe(fn).format == "source"
    assert list(executor.map(operator.mul, range(5), range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (lambda x: x, "lambda"),
        (shipped.mirrored, "class Point"),
        (shipped.counted, "global counter"),
        (shipped.with_calls, "modules=['calls']"),
        (shipped.Point(1, 2).__init__, "is a method"),  # type: ignore[misc]
    ],
)
def test_what_cannot_be_text_is_pickled_and_the_record_says_why(fn: Any, why: str) -> None:
    definition = describe(fn)
    assert definition.format == "pickle"
    assert why in definition.description
    with pytest.raises(farloom.FarloomError, match="cannot travel as source text"):
        describe(fn, ship="source")


def test_text_can_be_refused(fabric: Fabric) -> None:
    fn = farloom.function(ship="pickle")(calls.echo)
    assert fn.shipped_as == "pickle"
    assert fn.submit(4).result(30) == 4


def test_modules_of_the_project_travel_along(fabric: Fabric) -> None:
    norm = farloom.function(shipped.norm, modules=[shipped, calls])
    assert norm.shipped_as == "source"
    assert "shipped, calls" in norm.definition.description
    assert norm.submit(shipped.Point(3, 4)).result(30) == 5
    point = farloom.function(modules=["shipped", "calls"])(shipped.mirrored).submit(1, 2).result(30)
    assert type(point) is shipped.Point
    assert farloom.function(modules=[calls])(shipped.with_calls).submit(1).result(30) == 2
    offset = 10
    closure = farloom.function(modules=[shipped, calls])(lambda x: shipped.double(x) + offset)
    assert closure.shipped_as == "pickle"
    assert list(closure.map(range(3))) == [10, 12, 14]
    with pytest.raises(farloom.FarloomError, match="not found here"):
        describe(calls.echo, modules=["no_such_module"])


def test_a_newer_version_of_a_module_replaces_the_one_before(tmp_path: Any, monkeypatch: Any, fabric: Fabric) -> None:
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "project"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .values import VALUE\n")
    (package / "inner/__init__.py").write_text("from ..values import VALUE\n\n\ndef value():\n    return VALUE\n")
    for value in (1, 2):
        (package / "values.py").write_text(f"VALUE = {value}\n# {'x' * value}\n")
        for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        inner = importlib.import_module("project.inner")
        fn = farloom.function(inner.value, modules=["project"])
        assert fn.shipped_as == "source"
        assert fn.submit().result(30) == value


def test_a_function_of_a_notebook_is_text(executor: farloom.Executor) -> None:
    cells = ["import math\nfrom random import random as draw\nside = 4", "%matplotlib inline"]
    cells.append("def area(n):\n    assert draw() < 1\n    return math.sqrt(n * side)\n")
    namespace: dict[str, Any] = {"__name__": "__main__", "In": cells, "get_ipython": None}
    for number in (0, 2):
        file = f"<ipython-input-{number}>"
        linecache.cache[file] = (len(cells[number]), None, cells[number].splitlines(True), file)
        exec(compile(cells[number], file, "exec"), namespace)
    definition = describe(namespace["area"])
    assert definition.format == "source", definition.description
    assert executor.submit(namespace["area"], 4).result(30) == 4


def test_an_edited_file_is_not_taken_for_the_function(tmp_path: Any, monkeypatch: Any) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "edited_module.py"
    file.write_text("def value():\n    return 'aaa'\n")
    module = importlib.import_module("edited_module")
    assert describe(module.value).format == "source"
    file.write_text("def value():\n    return 'bbb'\n")
    linecache.clearcache()
    definition = describe(module.value)
    assert definition.format == "pickle"
    assert "not the code that its file has now" in definition.description


def test_a_pickle_is_compared_with_the_endpoints_python_before_it_is_sent(fabric: Fabric) -> None:
    with farloom.Executor() as ex:
        pythons = ex.client.endpoint("main")["agentInfo"]["pythons"]
        assert pythons["default"]["version"].count(".") == 2
        assert pythons["default"]["cloudpickle"]
        ex._info = {"name": "main", "agentInfo": {"pythons": {"default": {"version": "3.8.1", "program": "py8"}}}}
        with pytest.raises(farloom.FarloomError) as caught:
            ex.submit(lambda: 1)
        assert caught.value.code == "ENVIRONMENT_MISMATCH"
        assert "py8 there is Python 3.8.1" in str(caught.value)
        assert "it is a lambda" in str(caught.value)
        # Text runs on any Python.
        assert ex.submit(calls.echo, 1).result(30) == 1


def test_a_missing_or_another_cloudpickle_is_told_with_its_cure() -> None:
    import platform

    definition = describe(lambda: 1)
    for there, told in ((None, "has no cloudpickle"), ("1.2.3", "has cloudpickle 1.2.3")):
        python = {"version": platform.python_version(), "program": "/opt/python", "cloudpickle": there}
        with pytest.raises(farloom.FarloomError, match="pip install cloudpickle==") as caught:
            check_environment(definition, {"name": "e", "agentInfo": {"pythons": {"default": python}}})
        assert told in str(caught.value)
    check_environment(definition, {"name": "never connected"})


def test_what_a_function_requires_is_compared_with_what_its_environment_has() -> None:
    packages = {"numpy": "1.26.4", "sklearn": "1.5.0", "torch": "2.3.1+cu121"}
    torch = {"version": "3.12.1", "program": "/opt/torch/bin/python", "packages": packages}
    pythons = {"default": {"version": "3.12.1", "packages": {}}, "torch": torch}
    endpoint = {"name": "e", "agentInfo": {"pythons": pythons}}

    def check(*requires: str, interpreter: str = "torch") -> None:
        env = {"interpreter": interpreter, **required(requires)}
        check_environment(describe(calls.echo, {"env": env}), endpoint)

    check("numpy>=1.20,<2", "torch~=2.1", "SKlearn", "numpy==1.26.*", "torch!=2.4", "numpy [extra]>=1.26.4")
    for requires, told in (
        ("numpy>=2", "numpy>=2, there is 1.26.4"),
        ("torch~=1.9", "there is 2.3.1"),
        ("xarray", "xarray, which is not there"),
        ("numpy==1.26", "there is 1.26.4"),
    ):
        with pytest.raises(farloom.FarloomError) as caught:
            check(requires)
        assert caught.value.code == "ENVIRONMENT_MISMATCH"
        assert told in str(caught.value)
        assert f"/opt/torch/bin/python -m pip install '{requires}'" in str(caught.value)
        assert "environment torch" in str(caught.value)
    with pytest.raises(farloom.FarloomError, match=r"no environment tensor .*; there are default, torch"):
        check(interpreter="tensor")
    # A function's own environment, and an agent that tells of no packages: nobody knows.
    check("xarray", interpreter="conda:mine")
    torch.pop("packages")
    check("xarray")
    for bad in ("", "a b", "numpy=>2", "numpy>="):
        with pytest.raises(farloom.FarloomError, match="no package as pip names them"):
            required([bad])


def test_what_an_endpoint_can_never_run_is_answered_with_what_there_is(fabric: Fabric) -> None:
    @farloom.function(gpus=0.25, memory="1MB")
    def needs_a_share() -> int:
        return 1

    assert needs_a_share.definition.options["resources"] == {"gpus": 0.25, "memoryMb": 1}
    with pytest.raises(farloom.TaskFailedError, match=r"asks for 0.25 GPUs; this endpoint has 0"):
        needs_a_share.submit().result(30)


def test_a_missing_package_is_told_before_anything_is_submitted(fabric: Fabric) -> None:
    @farloom.function(requires=["no-such-package-x>=1"])
    def needs() -> int:
        return 1

    with pytest.raises(farloom.FarloomError, match="no-such-package-x>=1, which is not there") as caught:
        needs.submit()
    assert caught.value.code == "ENVIRONMENT_MISMATCH"
    with farloom.Executor(requires="cloudpickle") as ex:
        assert ex.submit(calls.echo, 2).result(30) == 2


def test_a_function_says_what_isolation_it_wants(fabric: Fabric) -> None:
    told = {"isolation": "namespaces", "network": True, "environment": {"vars": {"A": "1"}}}
    wants = {"isolation": "namespaces", "network": True}
    assert definition_options(told)["env"] == {"vars": {"A": "1"}, **wants}
    assert definition_options({})["env"] == {}
    guarded = farloom.function(isolation="namespaces")(calls.echo)
    # The endpoint of these tests runs its workers as they are.
    with pytest.raises(farloom.FarloomError) as caught:
        guarded.submit(1).result(30)
    assert caught.value.code == "ISOLATION_UNAVAILABLE"


def test_sizes_and_times_are_read_as_people_write_them() -> None:
    assert [memory_mb(size) for size in ("8GB", "512MiB", "1.5 G", 300, "2TiB")] == [7630, 512, 1431, 300, 2097152]
    assert [walltime_ms(t) for t in ("30:00", "01:30:00", "2-00:00:00", 1.5)] == [1800000, 5400000, 172800000, 1500]
    for bad in (lambda: memory_mb("much"), lambda: walltime_ms("soon")):
        with pytest.raises(farloom.FarloomError):
            bad()
