"""Libraries that take an executor, or a backend, unchanged: the same results as on this machine alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import calls
import pytest
from fabric import ROOT, Fabric, clean_env

import farloom


def test_dask_computes_delayed_calls_and_arrays_with_an_executor(executor: farloom.Executor) -> None:
    dask = pytest.importorskip("dask")
    da = pytest.importorskip("dask.array")
    np = pytest.importorskip("numpy")

    total = dask.delayed(sum)([dask.delayed(calls.add)(n, n) for n in range(5)])
    assert dask.compute(total, scheduler=executor) == (20,)

    x = da.random.default_rng(7).random((400, 300), chunks=(100, 300))
    y = (x + x.mean(axis=0)).T @ x
    there = y.compute(scheduler=executor)
    assert np.array_equal(there, y.compute(scheduler="synchronous"))
    with dask.config.set(scheduler=executor):
        assert x.sum().compute() == x.sum().compute(scheduler="synchronous")
        assert set(dask.compute(*[dask.delayed(calls.where)(dask_key_name=f"where-{n}") for n in range(8)])).isdisjoint(
            {os.getpid()}
        )
        with pytest.raises(ValueError, match="in dask"):
            dask.delayed(calls.fail)("in dask").compute()


def test_an_executor_says_how_many_calls_run_at_once(fabric: Fabric, executor: farloom.Executor) -> None:
    assert (executor.max_workers, executor._max_workers) == (2, 2)
    with farloom.Executor(max_workers=7) as wide:
        assert (wide.max_workers, wide._max_workers) == (7, 7)
    with pytest.raises(ValueError, match="max_workers"):
        farloom.Executor(max_workers=0)


def test_farloom_itself_brings_none_of_them() -> None:
    names = ["dask", "joblib", "sklearn", "scipy", "parsl", "lithops", "numpy", "tqdm", "cloudpickle"]
    look = f"import sys, farloom; farloom.Executor, farloom.Pool; print([n for n in {names} if n in sys.modules])"
    env = clean_env(PYTHONPATH=str(ROOT / "python/src"))
    done = subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class TestJoblib:
    @pytest.fixture(autouse=True)
    def registered(self, fabric: Fabric) -> None:
        pytest.importorskip("joblib")
        import farloom.joblib

        farloom.joblib.register()

    def test_loops_run_there_in_order_and_raise_what_was_raised(self, executor: farloom.Executor) -> None:
        import joblib

        loop = [joblib.delayed(calls.add)(n, c=1) for n in range(200)]
        with joblib.parallel_config(backend="farloom", executor=executor):
            assert joblib.effective_n_jobs(-1) == 2
            assert joblib.Parallel()(loop) == [n + 1 for n in range(200)]
            where = joblib.Parallel()(joblib.delayed(calls.where)() for _ in range(20))
            assert os.getpid() not in where
            with pytest.raises(ValueError, match="of the loop"):
                joblib.Parallel()(joblib.delayed(calls.fail)("of the loop") for _ in range(20))
            lazy = joblib.Parallel(return_as="generator")(joblib.delayed(calls.echo)(n) for n in range(20))
            assert list(lazy) == list(range(20))
        with joblib.parallel_config(backend="farloom", endpoint="main", n_jobs=2):
            assert joblib.Parallel()(loop) == [n + 1 for n in range(200)]
            assert joblib.Parallel()(loop[:3]) == [1, 2, 3]

    def test_a_loop_that_fails_stops_what_runs_of_it(self, executor: farloom.Executor) -> None:
        import joblib

        begun = time.monotonic()
        with joblib.parallel_config(backend="farloom", executor=executor), pytest.raises(ValueError, match="at once"):
            joblib.Parallel(n_jobs=2, batch_size=1)(
                joblib.delayed(calls.fail)("at once") if n == 0 else joblib.delayed(calls.nap)(60) for n in range(6)
            )
        executor.shutdown()
        assert time.monotonic() - begun < 30

    def test_a_grid_search_of_scikit_learn_gives_the_scores_it_gives_here(self, executor: farloom.Executor) -> None:
        pytest.importorskip("sklearn")
        import joblib
        from sklearn.datasets import load_iris
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVC

        X, y = load_iris(return_X_y=True)
        grid = {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}
        here = GridSearchCV(SVC(), grid, cv=4, n_jobs=1).fit(X, y)
        with joblib.parallel_config(backend="farloom", executor=executor):
            there = GridSearchCV(SVC(), grid, cv=4).fit(X, y)
        assert list(there.cv_results_["mean_test_score"]) == list(here.cv_results_["mean_test_score"])
        assert (there.best_params_, there.best_score_) == (here.best_params_, here.best_score_)


def bowl(x):
    return float(((x - 0.3) ** 2).sum())


def wave(x):
    import numpy as np

    return np.array([np.cos(x), np.sin(3 * x)])


def test_scipy_finds_the_same_with_workers_there(executor: farloom.Executor) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    integrate = pytest.importorskip("scipy.integrate")
    # What a worker cannot import travels by value.
    import cloudpickle
    import numpy as np

    cloudpickle.register_pickle_by_value(__import__(__name__))
    how = {"bounds": [(-2, 2)] * 2, "rng": 11, "maxiter": 8, "popsize": 6, "updating": "deferred", "polish": False}
    here = optimize.differential_evolution(bowl, workers=map, **how)
    there = optimize.differential_evolution(bowl, workers=executor.map, **how)
    assert (there.x.tolist(), there.fun, there.nfev) == (here.x.tolist(), here.fun, here.nfev)

    ranges = (slice(-1, 1, 0.25),) * 2
    assert np.array_equal(
        optimize.brute(bowl, ranges, finish=None, workers=executor.map), optimize.brute(bowl, ranges, finish=None)
    )
    value, _ = integrate.quad_vec(wave, 0, 2, workers=executor.map)
    assert np.array_equal(value, integrate.quad_vec(wave, 0, 2, workers=map)[0])


def test_asyncio_runs_calls_in_an_executor(executor: farloom.Executor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, calls.add, 1, 2) == 3
        assert await asyncio.gather(*(loop.run_in_executor(executor, calls.echo, n) for n in range(50))) == [*range(50)]
        with pytest.raises(ValueError, match="in a loop"):
            await loop.run_in_executor(executor, calls.fail, "in a loop")

    asyncio.run(main())
