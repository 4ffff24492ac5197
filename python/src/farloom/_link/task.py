"""The link's record of one task, from submission to its end.

    preparing ─► waiting ─► sent ─► durable ─► settled
                    ▲         │
                    └ delayed ┘

preparing  its arguments are being uploaded; not with the link yet
waiting    in its lane, until credit and socket allow; also again after a cut
delayed    the service refused it for a reason that passes; its wait has not ended
sent       in a frame of this session, not yet covered by a durable mark (P11)
durable    the service has committed it; its arguments are let go
settled    it has its one end
"""

from typing import TYPE_CHECKING, Any, Final, Protocol

from .._ids import to_uuid

if TYPE_CHECKING:
    from .stream import Lane

PREPARING: Final = 0
WAITING: Final = 1
DELAYED: Final = 2
SENT: Final = 3
DURABLE: Final = 4
SETTLED: Final = 5

# How firmly its end was asked for: what has not started, or what runs as well.
CANCEL_QUEUED: Final = 1
CANCEL_FORCE: Final = 2


class Sink(Protocol):
    """Who wants to know a task's end: exactly one of the first three is called, once, by whatever thread has it."""

    def on_value(self, task: "Task", value: Any) -> None: ...

    def on_error(self, task: "Task", error: BaseException) -> None: ...

    def on_cancelled(self, task: "Task") -> None: ...

    def on_running(self, task: "Task") -> None:
        """It has started; told only of what lives longer than about a second, or was asked to end."""


class Task:
    __slots__ = (
        "cancel_asked",
        "codec",
        "counted",
        "data",
        "detail",
        "digest",
        "index",
        "key",
        "lane",
        "options",
        "phase",
        "progress",
        "run_ms",
        "sends",
        "sink",
    )

    def __init__(
        self,
        key: bytes,
        data: bytes,
        codec: int,
        digest: bytes,
        lane: "Lane",
        sink: Sink,
        options: dict[str, Any] | None = None,
        index: int = 0,
    ) -> None:
        self.key = key
        self.data = data
        self.codec = codec
        self.digest = digest
        self.lane = lane
        self.sink = sink
        self.options = options
        # Its place in the input of a map.
        self.index = index
        self.phase = PREPARING
        self.sends = 0
        self.cancel_asked = 0
        # Bytes that it holds of the bound on unacknowledged arguments.
        self.counted = 0
        self.detail: dict[str, Any] | None = None
        self.run_ms: float | None = None
        # How far its function said that it is, and of how much.
        self.progress: tuple[float, float | None] | None = None

    @property
    def id(self) -> str:
        return to_uuid(self.key)
