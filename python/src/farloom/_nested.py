"""Inside a function submitted with `nested`: the service, as the task's own token reaches it (PROTOCOL.md P28).

The worker gets the token when it is first wanted, gives a newer one when half of its time is over, and forgets it with
the task. It submits to the task's endpoint, into one group; it sees and cancels what lies there, and nothing else.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ._context import current
from ._errors import FarloomError

_WORKER = "farloom_worker_context"


class Grant(NamedTuple):
    """What the token reaches, and the token."""

    task: str
    token: str
    url: str
    endpoint: str
    group: str

    def __repr__(self) -> str:
        return f"<the own token of task {self.task}>"


def _own_token() -> Any:
    return getattr(sys.modules.get(_WORKER), "own_token", None)


def grant() -> Grant | None:
    """The running task's; None where no task runs. Raises FarloomError NESTED_NOT_ASKED, NESTED_ENDED, NOT_READY."""
    own = _own_token()
    answer: dict[str, Any] | None = None if own is None else own()
    if answer is None:
        return None
    task = str(current().id)
    token = answer.get("token")
    if token is None:
        raise FarloomError(str(answer.get("code")), answer.get("message"), id=task)
    return Grant(task, token, answer["url"], answer["endpoint"], answer["group"])


def is_in_task() -> bool:
    """Whether a worker runs this for a task."""
    return _own_token() is not None and bool(current())


def bearer(task: str) -> str:
    """The token of this task, while it runs. Raises FarloomError."""
    own = grant() if current().id == task else None
    if own is None:
        raise FarloomError("NESTED_ENDED", id=task)
    return own.token


def at_end(call: Callable[[], Any]) -> None:
    """`call` runs when the task's function is over, before its result goes out: the token ends with the result."""
    own = _own_token()
    if own is not None:
        own.at_end(call)
