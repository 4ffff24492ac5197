"""Secrets: stored by the client, given to a function that names them, and masked in what it writes."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator

import cloudpickle
import pytest

import farloom

# The workers have no such module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def token(fabric: object) -> Iterator[str]:
    value = "s3cr3t-" + secrets.token_urlsafe(18)
    with farloom.Client() as client:
        client.secrets.set("PY_TOKEN", value)
        yield value
        client.secrets.remove("PY_TOKEN")


@farloom.function(secrets=["PY_TOKEN"])
def told() -> int:
    import farloom

    value = farloom.secret("PY_TOKEN")
    print("the token is " + value)
    return len(value)


def raises() -> None:
    import farloom

    raise ValueError("no good: " + farloom.secret("PY_TOKEN"))


def test_a_secret_is_listed_without_its_value(token: str) -> None:
    with farloom.Client() as client:
        found = {info.name: info for info in client.secrets.list()}
        assert found["PY_TOKEN"].endpoints == []
        assert token not in repr(found)
        with pytest.raises(farloom.FarloomError) as caught:
            client.secrets.remove("NONE_SUCH")
    assert caught.value.code == "SECRET_NOT_FOUND"


def test_a_function_is_given_the_secrets_that_it_names(token: str) -> None:
    future = told.submit()
    assert future.result(60) == len(token)
    assert "".join(chunk.text for chunk in future.logs()) == "the token is " + "*" * len(token) + "\n"


def test_an_exception_comes_back_without_them(token: str) -> None:
    with farloom.Executor(secrets="PY_TOKEN") as ex:
        error = ex.submit(raises).exception(60)
    assert error is not None
    shown = repr(error) + repr(error.__cause__)
    assert token not in shown
    assert "*" * len(token) in shown


def test_one_that_is_not_there_is_told_at_once(fabric: object) -> None:
    with farloom.Executor(secrets=["NONE_SUCH"]) as ex, pytest.raises(farloom.FarloomError) as caught:
        ex.submit(len, []).result(60)
    assert caught.value.code == "SECRET_MISSING"


def test_where_no_task_runs_there_are_none() -> None:
    with pytest.raises(LookupError, match="PY_TOKEN"):
        farloom.secret("PY_TOKEN")
