"""`farloom.Executor` keeps what `concurrent.futures` promises, on a real endpoint."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from pathlib import Path

import calls
import pytest
from fabric import Fabric

import farloom


def test_a_call_gives_its_value(executor: farloom.Executor) -> None:
    assert executor.submit(calls.add, 1, 2, c=3).result(30) == 6
    assert executor.submit(pow, 2, 10).result(30) == 1024
    assert executor.submit(lambda a, b=1: a + b, 3, b=4).result(30) == 7


def test_an_executor_and_its_futures_are_the_standard_librarys(executor: farloom.Executor) -> None:
    future = executor.submit(calls.echo, 1)
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(future, concurrent.futures.Future)
    assert len(future.task_id) == 36
    assert {f.result() for f in concurrent.futures.as_completed([future], 30)} == {1}


def test_values_of_all_kinds_come_back_as_they_were(executor: farloom.Executor) -> None:
    import datetime
    import fractions

    values = [None, True, 1 << 80, 1.5, float("inf"), "text ∆", b"\0bytes", (1, (2,)), {3, 4}, {"k": [5]}]
    values += [datetime.date(2024, 2, 29), fractions.Fraction(1, 3), range(5), 2j]
    assert list(executor.map(calls.echo, values)) == values


def test_a_closure_ships_what_it_closes_over(executor: farloom.Executor) -> None:
    base = 40

    def plus(n: int) -> int:
        return base + n

    assert executor.submit(plus, 2).result(30) == 42


def test_map_keeps_the_order_and_stops_at_the_shortest_input(executor: farloom.Executor) -> None:
    assert list(executor.map(calls.add, range(3000), itertools.repeat(1, 2500))) == list(range(1, 2501))


def test_map_in_chunks_gives_the_same(executor: farloom.Executor) -> None:
    assert list(executor.map(calls.add, range(1001), range(1001), chunksize=100)) == [2 * i for i in range(1001)]


def test_map_reads_endless_input_as_results_are_taken(executor: farloom.Executor) -> None:
    read = 0

    def numbers() -> itertools.count[int]:
        nonlocal read
        for number in itertools.count():
            read = number
            yield number

    results = executor.map(calls.echo, numbers(), buffersize=50)
    assert list(itertools.islice(results, 200)) == list(range(200))
    assert read < 300
    results.close()  # type: ignore[attr-defined]


def test_map_gives_up_at_its_timeout(executor: farloom.Executor) -> None:
    got = []
    with pytest.raises(concurrent.futures.TimeoutError):
        for value in executor.map(calls.nap, [0, 3], timeout=1):
            got.append(value)
    assert got == [0]


def test_an_exception_comes_with_its_type_and_the_remote_traceback(executor: farloom.Executor) -> None:
    error = executor.submit(calls.fail, "what went wrong").exception(30)
    assert type(error) is ValueError
    assert error.args == ("what went wrong",)
    assert isinstance(error.__cause__, farloom.RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    with pytest.raises(ZeroDivisionError):
        list(executor.map(lambda n: 1 / n, [1, 0]))


def test_an_exception_of_the_programs_own_is_the_same_class(executor: farloom.Executor) -> None:
    with pytest.raises(calls.OwnError) as caught:
        executor.submit(calls.fail_own, 7).result(30)
    assert caught.value.number == 7


def test_an_exception_that_cannot_be_rebuilt_is_told_of(executor: farloom.Executor) -> None:
    def fail_strangely() -> None:
        class StrangeError(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__("only one")

        raise StrangeError(1, 2)

    with pytest.raises(farloom.TaskFailedError) as caught:
        executor.submit(fail_strangely).result(30)
    assert caught.value.remote_type == "StrangeError"
    assert "StrangeError" in str(caught.value.__cause__)


def test_arguments_that_do_not_fit_are_a_type_error(executor: farloom.Executor) -> None:
    with pytest.raises(TypeError):
        executor.submit(calls.add).result(30)


def test_the_death_of_a_worker_is_told_with_its_signal(executor: farloom.Executor) -> None:
    with pytest.raises(farloom.WorkerDiedError, match="SIGKILL"):
        executor.submit(calls.die).result(60)
    assert executor.submit(calls.echo, 1).result(30) == 1


def test_what_a_function_prints_is_kept(executor: farloom.Executor) -> None:
    future = executor.submit(print, "to be seen")
    assert future.result(30) is None
    assert future.stdout == "to be seen\n"


def test_a_time_limit_ends_a_call(fabric: Fabric) -> None:
    with (
        farloom.Executor(timeout_s=0.5) as ex,
        pytest.raises(farloom.TaskTimedOutError) as caught,
    ):
        ex.submit(calls.nap, 30).result(30)
    assert isinstance(caught.value, TimeoutError)


def test_retries_run_a_failed_call_again(fabric: Fabric, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def fail_twice(path: str) -> int:
        with open(path, "a+") as file:
            file.seek(0)
            n = len(file.read())
            file.write("x")
        if n < 2:
            raise RuntimeError(n)
        return n

    with farloom.Executor(retries=3) as ex:
        assert ex.submit(fail_twice, str(seen)).result(60) == 2


def test_many_threads_submit_at_once(executor: farloom.Executor) -> None:
    sums: list[int] = []

    def work(start: int) -> None:
        futures = [executor.submit(calls.echo, start + i) for i in range(200)]
        sums.append(sum(f.result(60) for f in futures))

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [sum(range(1000 * i, 1000 * i + 200)) for i in range(8)]


def test_callbacks_may_submit(executor: farloom.Executor) -> None:
    done = threading.Event()
    second: list[object] = []

    def again(future: concurrent.futures.Future[int]) -> None:
        executor.submit(calls.echo, future.result() + 1).add_done_callback(last)

    def last(future: concurrent.futures.Future[int]) -> None:
        second.append(future.result())
        done.set()

    executor.submit(calls.echo, 1).add_done_callback(again)
    assert done.wait(30)
    assert second == [2]


def test_nothing_is_taken_after_shutdown(fabric: Fabric) -> None:
    ex = farloom.Executor()
    future = ex.submit(calls.nap, 0.2)
    ex.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(calls.echo, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.map(calls.echo, [1])
    # What was taken still ends.
    assert future.result(30) == 0.2


def test_large_arguments_and_results_travel_as_payload_files(executor: farloom.Executor) -> None:
    import os

    data = os.urandom(5_000_000)
    assert executor.submit(calls.echo, data).result(60) == data
    assert [len(b) for b in executor.map(calls.zeros, [70_000, 3_000_000])] == [70_000, 3_000_000]


def test_numpy_arrays_go_there_and_back(executor: farloom.Executor) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(500_000, dtype="f8").reshape(500, 1000)
    back = executor.submit(calls.echo, array).result(60)
    assert back.dtype == array.dtype
    assert numpy.array_equal(back, array)


def test_what_cannot_be_pickled_is_refused_where_it_is_submitted(executor: farloom.Executor) -> None:
    with pytest.raises(TypeError):
        executor.submit(calls.echo, threading.Lock())


def test_an_unknown_endpoint_is_told_at_once(fabric: Fabric) -> None:
    with farloom.Executor("no-such-place") as ex, pytest.raises(farloom.FarloomError) as caught:
        ex.submit(calls.echo, 1)
    assert caught.value.code == "ENDPOINT_NOT_FOUND"


def test_the_choice_of_shipping_is_told_in_the_record(executor: farloom.Executor) -> None:
    record = executor.client.rest.json("GET", f"/v1/functions/{executor.prepare(calls.nap).hex()}")
    assert record["format"] == "source"
    assert "source text" in record["description"]
    fn = lambda: 1  # noqa: E731
    record = executor.client.rest.json("GET", f"/v1/functions/{executor.prepare(fn).hex()}")
    assert record["format"] == "pickle"
    assert "lambda" in record["description"]


def test_results_of_a_dropped_map_do_not_pile_up(executor: farloom.Executor) -> None:
    next(iter(executor.map(calls.nap, itertools.repeat(0.01, 500), buffersize=100)))
    until = time.monotonic() + 30
    while executor.client.link.custody.open and time.monotonic() < until:
        time.sleep(0.05)
    assert not executor.client.link.custody.open
