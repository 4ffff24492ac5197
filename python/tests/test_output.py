"""What a call writes and why it waits, as its future tells it."""

from __future__ import annotations

import time

import pytest
from fabric import Fabric

import farloom


def test_logs_follow_a_call_piece_by_piece_and_can_be_read_again_from_any_byte(executor: farloom.Executor) -> None:
    def count_aloud(lines: int) -> int:
        import sys
        import time

        for i in range(lines):
            print(f"\x1b[1mzeile {i} ü\x1b[0m")
            print(f"err {i}", file=sys.stderr)
            time.sleep(0.1)
        return lines

    future = executor.submit(count_aloud, 12)
    chunks = list(future.logs(follow=True))
    whole = "".join(f"\x1b[1mzeile {i} ü\x1b[0m\n" for i in range(12))
    assert "".join(str(chunk) for chunk in chunks) == whole
    # Not all at its end.
    assert len(chunks) > 2
    assert [chunk.offset for chunk in chunks[1:]] == [chunk.next_offset for chunk in chunks[:-1]]
    assert future.result(30) == 12
    data = whole.encode()
    again = b"".join(chunk.data for chunk in future.logs(offset=chunks[1].offset + 1))
    assert again == data[chunks[1].offset + 1 :]
    assert "".join(map(str, future.logs(stream="stderr"))) == "".join(f"err {i}\n" for i in range(12))
    with pytest.raises(ValueError):
        next(future.logs(stream="stdin"))


def test_why_says_in_a_sentence_what_a_call_waits_for(fabric: Fabric) -> None:
    made = fabric.request("POST", "/v1/endpoints", {"name": "nobody-there"})
    with farloom.Executor("nobody-there") as ex:
        future = ex.submit(time.time)
        assert future.why() == "The endpoint's agent has never connected. Start it: farloom endpoint start."
        assert future.cancel()
        assert future.why() is None
    fabric.request("DELETE", f"/v1/endpoints/{made['id']}")
