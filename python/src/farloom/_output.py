"""What a task writes, while it runs and afterwards: the pieces of one stream, as they come."""

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._rest import Rest

# One long poll; a proxy in between commonly allows 60 s, and a request here takes no longer.
_POLL_S = 30


class OutputChunk(NamedTuple):
    """Bytes of one stream; `str()` of it is their text."""

    attempt: int
    offset: int
    """Where the bytes begin in the attempt's stream."""
    skipped: int
    """Bytes right before these that were not kept: of a flood its middle, or what was lost with an agent."""
    data: bytes
    text: str
    """The same as text; a character that two chunks share stands in the second."""

    @property
    def next_offset(self) -> int:
        """Where a later reading goes on."""
        return self.offset + len(self.data)

    def __str__(self) -> str:
        return self.text


def logs(
    rest: "Rest", task_id: str, *, stream: str, follow: bool, offset: int, attempt: int | None
) -> Iterator[OutputChunk]:
    if stream not in ("stdout", "stderr"):
        raise ValueError(f"stream is 'stdout' or 'stderr', not {stream!r}")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        query = {"stream": stream, "offset": offset, "attempt": attempt, "wait": _POLL_S if follow else 0}
        response = rest.send("GET", f"/v1/tasks/{task_id}/output", query=query)
        head, data = response.headers, response.content
        attempt, at = int(head["farloom-attempt"]), int(head["farloom-offset"])
        more = head["farloom-more"] == "true"
        if data:
            if at > offset:
                decoder.reset()
            yield OutputChunk(attempt, at, at - offset, data, decoder.decode(data))
        elif more and not follow:
            return
        offset = int(head["farloom-next-offset"])
        if more:
            continue
        if int(head["farloom-last-attempt"]) <= attempt:
            return
        attempt, offset = attempt + 1, 0
        decoder.reset()
