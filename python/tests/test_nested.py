"""A function that submits functions: its task's own token, from the service to the worker, and what that reaches."""

from __future__ import annotations

import json
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import cloudpickle
import pytest
from fabric import Fabric

import farloom

# The workers have no such module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def inner(fabric: Fabric) -> Iterator[str]:
    """An endpoint whose workers have this package: name of it."""
    fabric.agent("inner", workers=3, env={"PYTHONPATH": fabric.env["PYTHONPATH"]})
    yield "inner"


def ask(url: str, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {token}"} | ({} if body is None else {"content-type": "application/json"})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def sum_of_squares(n: int) -> Any:
    import farloom

    def square(x: int) -> int:
        return x * x

    with farloom.Executor() as ex:
        total = sum(ex.map(square, range(n)))
        return total, ex.task_group_id, ex.submit(pow, 2, 5).result()


def test_a_function_submits_functions_and_takes_their_results(fabric: Fabric, inner: str) -> None:
    with farloom.Executor(inner, nested=True) as ex:
        total, group, power = ex.submit(sum_of_squares, 10).result(60)
    assert (total, power) == (285, 32)
    listed = fabric.request("GET", f"/v1/tasks?group={group}")["items"]
    assert len(listed) == 11
    assert {item["endpointName"] for item in listed} == {"inner"}
    # No bare name of the owner's comes to mean another function.
    assert {item["function"].split("/")[1].partition(".")[0] for item in listed} == {"nested"}
    assert len(farloom.attach(group)) == 11


def test_the_next_task_of_the_same_worker_has_a_token_of_its_own(inner: str) -> None:
    with farloom.Executor(inner, nested=True) as ex:
        # One after the other: a function that waits for others holds its worker meanwhile.
        told = [ex.submit(sum_of_squares, n).result(60) for n in (3, 4, 5)]
    assert [one[0] for one in told] == [5, 14, 30]
    assert len({one[1] for one in told}) == 3


def test_large_arguments_and_results_travel_nested_too(inner: str) -> None:
    def outer(n: int) -> int:
        import farloom

        with farloom.Executor() as ex:
            return len(ex.submit(lambda data: data + data, bytes(n)).result())

    with farloom.Executor(inner, nested=True) as ex:
        assert ex.submit(outer, 300_000).result(60) == 600_000


def test_what_a_function_submitted_and_left_is_durable_before_its_result(inner: str) -> None:
    def leave_behind(n: int) -> str:
        import farloom

        ex = farloom.Executor()
        for i in range(n):
            ex.submit(pow, i, 2)
        return ex.task_group_id

    with farloom.Executor(inner, nested=True) as ex:
        group = ex.submit(leave_behind, 200).result(60)
    assert sorted(farloom.attach(group).results(60)) == [i * i for i in range(200)]


def test_the_decorator_and_the_twin_ask_for_it_and_children_may_have_children(inner: str) -> None:
    @farloom.function(endpoint=inner, nested=True)
    def factorial(n: int) -> int:
        import asyncio

        import farloom

        if n < 2:
            return 1

        async def below() -> int:
            async with farloom.AsyncExecutor(nested=True) as ex:
                return n * await ex.submit(factorial_of, n - 1)

        def factorial_of(m: int) -> int:
            import farloom

            with farloom.Executor() as ex:
                return m * ex.submit(pow, m - 1, 1).result()

        return asyncio.run(below())

    assert factorial.submit(3).result(90) == 6


def test_without_the_option_a_function_has_no_credential_and_is_told_what_to_do(inner: str) -> None:
    with farloom.Executor(inner) as ex, pytest.raises(farloom.FarloomError) as caught:
        ex.submit(sum_of_squares, 3).result(60)
    assert caught.value.code == "NESTED_NOT_ASKED"
    assert "nested=True" in str(caught.value)


def own_token() -> Any:
    """The token itself: what a function could carry elsewhere."""
    import sys

    return sys.modules["farloom_worker_context"].own_token()


def carry_out_and_wait(path: str, seconds: float) -> None:
    import json
    import os
    import sys
    import time

    told = sys.modules["farloom_worker_context"].own_token()
    with open(path + ".new", "w") as file:
        json.dump({k: v for k, v in told.items() if isinstance(v, (str, int))}, file)
    os.rename(path + ".new", path)
    time.sleep(seconds)


def until(what: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_token_reaches_its_endpoint_and_its_group_and_nothing_else_and_ends_with_its_task(
    fabric: Fabric, inner: str, tmp_path: Path
) -> None:
    with farloom.Executor("main") as other:
        foreign = other.submit(calls.echo, "not yours")
        assert foreign.result(60) == "not yours"
    with farloom.Executor(inner, nested=True) as ex:
        future = ex.submit(carry_out_and_wait, str(tmp_path / "told"), 60)
        until((tmp_path / "told").exists)
        told = json.loads((tmp_path / "told").read_text())
        url, token, group = told["url"], told["token"], told["group"]
        assert 0 < told["expiresInMs"] <= 600_000

        def code(method: str, path: str, body: Any = None) -> Any:
            status, answer = ask(url, token, method, path, body)
            return answer["code"] if status >= 300 else status

        # What it is for.
        body = {"name": "double", "runtime": "python", "code": "def double(x):\n    return 2 * x\n"}
        status, fn = ask(url, token, "POST", "/v1/functions", body)
        assert (status, fn["name"]) == (201, "nested.double")
        call = {"function": fn["id"], "endpoint": told["endpoint"], "args": [21]}
        status, task = ask(url, token, "POST", "/v1/tasks?wait=30", call)
        assert (status, task["result"], task["group"]) == (200, 42, group)
        assert code("GET", f"/v1/tasks/{task['id']}") == 200
        assert code("GET", f"/v1/groups/{group}") == 200
        listed = ask(url, token, "GET", "/v1/tasks")[1]["items"]
        assert [item["id"] for item in listed] == [task["id"]]

        # What it is not for.
        scope = "NESTED_SCOPE"
        assert code("GET", f"/v1/tasks/{foreign.task_id}") == scope
        assert code("GET", f"/v1/tasks/{foreign.task_id}/result") == scope
        assert code("GET", f"/v1/tasks/{future.task_id}") == scope
        assert code("POST", "/v1/tasks/status", {"ids": [foreign.task_id]}) == scope
        assert code("POST", f"/v1/tasks/{foreign.task_id}/cancel", {}) == scope
        assert code("POST", "/v1/tasks/cancel", {"ids": [future.task_id]}) == scope
        assert code("POST", "/v1/tasks/cancel", {"group": ex.task_group_id}) == scope
        assert code("GET", f"/v1/tasks?group={ex.task_group_id}") == scope
        assert code("GET", f"/v1/groups/{ex.task_group_id}") == scope
        assert code("GET", "/v1/groups") == scope
        assert code("GET", "/v1/endpoints/main") == scope
        assert code("GET", "/v1/endpoints") == scope
        assert code("POST", "/v1/endpoints", {"name": "mine"}) == scope
        assert code("POST", "/v1/tasks", {**call, "endpoint": "main"}) == scope
        assert code("POST", "/v1/tasks", {**call, "group": ex.task_group_id}) == scope
        assert code("GET", "/v1/functions") == scope
        assert code("DELETE", f"/v1/functions/{fn['id']}") == scope
        assert code("POST", "/v1/keys", {"label": "more"}) == scope
        assert code("POST", "/v1/tokens", {}) == scope
        assert code("PUT", "/v1/objects/b/k", {}) == scope
        assert code("POST", f"/v1/tasks/{future.task_id}/token", {}) == "UNAUTHENTICATED"

        # Over the link as over REST.
        client = farloom.Client(url, api_key=token, endpoint=told["endpoint"])
        with farloom.Executor(client=client, group=group) as within:
            assert within.submit(calls.echo, 1).result(30) == 1
        with farloom.Executor(client=client) as elsewhere, pytest.raises(farloom.FarloomError) as caught:
            elsewhere.submit(calls.echo, 1).result(30)
        assert caught.value.code == scope

        # The end of the task is the end of its token: on the open connection as well.
        future.cancel(force=True)
        until(lambda: future.done())
        assert code("POST", "/v1/tasks", call) == "NESTED_ENDED"
        assert code("GET", f"/v1/tasks/{task['id']}") == "NESTED_ENDED"
        with farloom.Executor(client=client, group=group) as late, pytest.raises(farloom.FarloomError) as ended:
            late.submit(calls.echo, 1).result(30)
        assert ended.value.code == "NESTED_ENDED"
        client.close()

    # It is nowhere but where it belongs.
    for file in fabric.folder.rglob("*"):
        if file.is_file() and "postgres" not in file.parts:
            assert token.encode() not in file.read_bytes(), file


def test_a_key_that_may_not_register_functions_cannot_get_that_by_nesting(fabric: Fabric) -> None:
    key = fabric.request("POST", "/v1/keys", {"label": "runs", "scopes": ["tasks:submit", "tasks:read"]})["key"]
    body = {"name": "one", "runtime": "python", "code": "def one():\n    return 1\n"}
    fn = fabric.request("POST", "/v1/functions", body)["id"]
    call = {"function": fn, "endpoint": "main", "options": {"nested": True}}
    status, answer = ask(fabric.url, key, "POST", "/v1/tasks", call)
    assert (status, answer["code"]) == (403, "SCOPE_MISSING")
    assert ask(fabric.url, key, "POST", "/v1/tasks", {**call, "options": {}})[0] == 202


def test_an_agent_gets_a_token_of_no_task_but_those_that_asked(fabric: Fabric, inner: str) -> None:
    with farloom.Executor(inner) as ex:
        told = ex.submit(own_token).result(60)
    assert told == {"code": "NESTED_NOT_ASKED"}


def test_each_request_shows_the_token_that_holds_then(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a task that outlives its first token; the worker gives another one when half of its time is over."""
    tokens = iter(["first", "second", fabric.key, fabric.key, fabric.key, fabric.key])
    ends: list[Any] = []
    grant = {"url": fabric.url, "endpoint": fabric.request("GET", "/v1/endpoints/main")["id"]}
    grant["group"] = fabric.request("POST", "/v1/groups", {})["id"]

    class OwnToken:
        def __call__(self) -> Any:
            return {**grant, "token": next(tokens)}

        def at_end(self, call: Any) -> None:
            ends.append(call)

    worker = types.ModuleType("farloom_worker_context")
    worker.task = types.SimpleNamespace(id="01a20880-d0d6-824b-b193-178aa0700000")  # type: ignore[attr-defined]
    worker.own_token = OwnToken()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "farloom_worker_context", worker)
    client = farloom.Client()
    assert "first" not in repr(client.config) and client.config.api_key == ""
    assert client.rest.headers["authorization"] == "Bearer second"
    assert client.rest.json("GET", "/v1/me")["owner"] == "me"
    with farloom.Executor(client=client) as ex:
        assert ex.task_group_id == grant["group"]
        assert ex.submit(calls.echo, 7).result(60) == 7
    # The client ends with the task; so does its credential.
    (end,) = ends
    end()
    worker.task.id = None  # type: ignore[attr-defined]
    with pytest.raises(farloom.FarloomError) as caught:
        _ = client.rest.headers
    assert caught.value.code == "NESTED_ENDED"
