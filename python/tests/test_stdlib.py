"""The standard library's own generic tests of executors, run against `farloom.Executor`.

They come with Python (3.10 and 3.11: the module test.test_concurrent_futures, later a package); a Python without its
test suite skips them. The workers need the same module, as the tests' functions travel by reference.

Left out, each with its reason in LEFT_OUT: what is not true of an executor whose workers are other machines.
"""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import pytest
from fabric import Fabric

import farloom

LEFT_OUT = {
    "test_interpreter_shutdown": "reads what a call prints from the caller's own terminal; a worker's output is kept "
    "with its task",
    "test_submit_after_interpreter_shutdown": "starts a named class of concurrent.futures in a subprocess, and submits "
    "while that ends; test_link.py has the rule: a program that ends has told everything it submitted",
    "test_hang_gh83386": "starts a named class of concurrent.futures in a subprocess",
    "test_cancel_futures_wait_false": "as above; test_cancel.py has the rule",
    "test_max_workers_negative": "an executor makes no workers: they are the endpoint's",
    "test_max_workers_too_large": "as above",
}


def find(*names: str) -> Any:
    """The first of these modules of the standard library's tests that there is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("this Python comes without its own tests", allow_module_level=True)


executor_tests = find("test.test_concurrent_futures.executor", "test.test_concurrent_futures")
wait_tests = find("test.test_concurrent_futures.test_wait", "test.test_concurrent_futures")
completed_tests = find("test.test_concurrent_futures.test_as_completed", "test.test_concurrent_futures")
shutdown_tests = find("test.test_concurrent_futures.test_shutdown", "test.test_concurrent_futures")


class OnFarloom(unittest.TestCase):
    """What test.test_concurrent_futures.util.ExecutorMixin does, with our executor."""

    # pytest would collect them once more by itself.
    __test__ = False
    worker_count = 2

    @staticmethod
    def executor_type(max_workers: int = 2, **_: object) -> farloom.Executor:
        """As many workers as the endpoint has."""
        return farloom.Executor()

    def setUp(self) -> None:
        super().setUp()
        self.executor = farloom.Executor()

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        super().tearDown()


class ExecutorTest(executor_tests.ExecutorTest, OnFarloom):  # type: ignore[misc]
    pass


class WaitTest(wait_tests.WaitTests, OnFarloom):  # type: ignore[misc]
    pass


class AsCompletedTest(completed_tests.AsCompletedTests, OnFarloom):  # type: ignore[misc]
    pass


class ShutdownTest(shutdown_tests.ExecutorShutdownTest, OnFarloom):  # type: ignore[misc]
    pass


def cases() -> list[tuple[str, type[unittest.TestCase], str]]:
    loader = unittest.TestLoader()
    found = []
    for case in (ExecutorTest, WaitTest, AsCompletedTest, ShutdownTest):
        found += [(f"{case.__name__}.{name}", case, name) for name in loader.getTestCaseNames(case)]
    return found


@pytest.mark.parametrize(("name", "case", "method"), cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_stdlib(fabric: Fabric, name: str, case: type[unittest.TestCase], method: str) -> None:
    if method in LEFT_OUT:
        pytest.skip(LEFT_OUT[method])
    result = unittest.TestResult()
    case(method).run(result)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not result.errors and not result.failures, "\n".join(t for _, t in result.errors + result.failures)


def test_everything_left_out_is_there_to_be_left_out() -> None:
    known = {name for module in (executor_tests, shutdown_tests) for name in dir_of_tests(module)}
    assert {"test_map", "test_submit"} <= known


def dir_of_tests(module: Any) -> set[str]:
    return {name for cls in vars(module).values() if isinstance(cls, type) for name in dir(cls) if name[:5] == "test_"}
