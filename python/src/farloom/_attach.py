"""`farloom.attach`: the futures of a task group again, after a kernel restart or on another machine.

The group's tasks come from REST; their outcomes, past and to come, by one `watch` on the link (P16).
"""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any, overload

from ._client import Client, default_client
from ._future import Future
from ._ids import from_uuid, to_uuid
from ._link.task import Task

# Asked for in one page of the list.
_PAGE = 1000


def attach(task_group_id: str, *, client: Client | None = None) -> "TaskGroup":
    """The futures of a group, in the order of submission. Nothing is submitted, and nothing is run again.

        group = farloom.attach("0190…")
        for future in concurrent.futures.as_completed(group):
            print(future.task_id, future.result())

    `task_group_id` is `executor.task_group_id`. Raises FarloomError GROUP_NOT_FOUND.
    """
    own = client if client is not None else default_client()
    group = from_uuid(task_group_id)
    own.rest.json("GET", f"/v1/groups/{task_group_id}")
    found = list(own.rest.pages("/v1/tasks", {"group": task_group_id, "limit": _PAGE}))
    # An id holds its time and its place in the client's batch; rows may have committed in another order.
    found.sort(key=lambda view: view["id"])
    lane = own.link.lane(bytes(16), group)
    tasks: list[Task] = []
    futures: list[Future[Any]] = []
    for view in found:
        future: Future[Any] = Future()
        task = Task(from_uuid(view["id"]), b"", 0, b"", lane, future)
        future._begin(own, task, None)
        tasks.append(task)
        futures.append(future)
    own.link.adopt(tasks)
    return TaskGroup(group, futures, own)


class TaskGroup(Sequence["Future[Any]"]):
    """The futures of a group, as a sequence."""

    def __init__(self, group: bytes, futures: "list[Future[Any]]", client: Client) -> None:
        self._group = group
        self.futures = futures
        self.client = client

    @property
    def id(self) -> str:
        return to_uuid(self._group)

    @property
    def url(self) -> str:
        """The group as the API has it. It asks for the API key, as all does."""
        return f"{self.client.config.url}/v1/groups/{self.id}"

    @overload
    def __getitem__(self, index: int) -> "Future[Any]": ...
    @overload
    def __getitem__(self, index: slice) -> "list[Future[Any]]": ...
    def __getitem__(self, index: int | slice) -> "Future[Any] | list[Future[Any]]":
        return self.futures[index]

    def __len__(self) -> int:
        return len(self.futures)

    def __iter__(self) -> "Iterator[Future[Any]]":
        return iter(self.futures)

    def results(self, timeout: float | None = None) -> list[Any]:
        """All results, in the order of submission; the first failure in that order is raised."""
        concurrent.futures.wait(self.futures, timeout)
        return [future.result(0) for future in self.futures]

    def counts(self) -> dict[str, int]:
        """How many of the group's tasks are in which state, as the service has it now."""
        info = self.client.rest.json("GET", f"/v1/groups/{self.id}")
        states: dict[str, int] = info["states"]
        return states

    def cancel(self, *, force: bool = False) -> None:
        """Asks for the end of what has not started; with `force`, of what runs as well. Does not wait."""
        tasks = [task for future in self.futures if (task := future._task) is not None]
        self.client.cancel(tasks, force=force)

    def __repr__(self) -> str:
        return f"<farloom.TaskGroup {self.id}, {self._done} of {len(self.futures)} done>"

    def _repr_html_(self) -> str:
        from ._html import card, meter

        return card("farloom.TaskGroup", [("group", self.id)], self.url) + meter(self._done, len(self.futures))

    @property
    def _done(self) -> int:
        return sum(future.done() for future in self.futures)
