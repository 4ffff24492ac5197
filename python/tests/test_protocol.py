"""What must agree with packages/protocol: frames byte for byte, ids, limits, the error catalogue."""

from __future__ import annotations

import json
import random
import re
import subprocess
from typing import Any

import pytest
from fabric import ROOT

from farloom import _catalogue, _frames, _ids, _limits
from farloom._errors import FarloomError, TaskEnd, parse_problem, task_error
from farloom._link.stream import Credit, Lane, Lanes, Outbox
from farloom._link.task import SENT, SETTLED, WAITING, Task

PROTOCOL = ROOT / "packages/protocol"
VECTORS = json.loads((PROTOCOL / "vectors/frames.json").read_text())


def revive(value: Any) -> Any:
    if isinstance(value, list):
        return [revive(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: revive(item) for key, item in value.items()}
    return value


def has_wide_integer(value: Any) -> bool:
    """JavaScript has one kind of number: above 32 bits its encoder writes a float64 of the same value."""
    if isinstance(value, dict):
        return any(map(has_wide_integer, value.values()))
    if isinstance(value, list):
        return any(map(has_wide_integer, value))
    return type(value) is int and value >= 2**32


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_golden_vectors_are_read_and_written_alike(vector: dict[str, Any]) -> None:
    frame, raw = revive(vector["frame"]), bytes.fromhex(vector["hex"])
    assert _frames.decode(raw) == frame
    assert _frames.decode(_frames.encode(frame)) == frame
    if not has_wide_integer(frame):
        assert _frames.encode(frame).hex() == vector["hex"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["frame"]["t"] == "results"], ids=lambda v: v["name"])
def test_golden_results_pass_the_check_of_columns_and_damaged_ones_do_not(vector: dict[str, Any]) -> None:
    frame = revive(vector["frame"])
    ends = _frames.check_results(frame)
    assert len(ends) == frame["n"]
    for name in ("ids", "ends", "data"):
        with pytest.raises(_frames.FrameInvalid):
            _frames.check_results(frame | {name: frame[name] + b"x"})


def test_no_bytes_make_the_decoder_raise_anything_but_its_own() -> None:
    rng = random.Random(20240607)
    good = [bytes.fromhex(vector["hex"]) for vector in VECTORS]
    for _ in range(3000):
        raw = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            _frames.check_results(_frames.decode(bytes(raw[: rng.randrange(len(raw) + 1)])))
        except _frames.FrameInvalid:
            pass


def test_seals_are_those_of_the_golden_vectors() -> None:
    sealed = [revive(v["frame"]) for v in VECTORS if "seals" in v["frame"]]
    assert sealed
    for frame in sealed:
        data = frame.get("args", frame.get("data"))
        start = 0
        for i, end in enumerate(_frames.read_u32_column(frame["ends"], frame["n"])):
            key, seal = frame["ids"][16 * i : 16 * i + 16], frame["seals"][32 * i : 32 * i + 32]
            assert _frames.seal_holds(seal, key, data[start:end])
            if seal != _frames.NO_SEAL:
                assert not _frames.seal_holds(seal, key, data[start:end] + b"x")
            start = end


def make(n: int, lane: Lane, size: int = 10) -> list[Task]:
    ids = _ids.TaskIds()
    tasks = [Task(ids.next(), bytes(size), 3, bytes(32), lane, None) for _ in range(n)]  # type: ignore[arg-type]
    for task in tasks:
        task.phase = WAITING
    return tasks


def test_a_batch_of_mixed_tasks_has_the_columns_of_the_protocol() -> None:
    lane = Lane(bytes(16), bytes(16))
    tasks = make(3, lane)
    tasks[1].codec, tasks[1].digest, tasks[1].options = 1, b"d" * 32, {"timeoutMs": 5}
    tasks[2].data = b"abc"
    frame = _frames.build_tasks(tasks, lane.endpoint, lane.group, again=True)
    assert frame["codecs"] == bytes([3, 1, 3])
    assert frame["fns"] == [bytes(32), b"d" * 32]
    assert frame["fn"] == bytes([0, 0, 1, 0, 0, 0])
    assert frame["opts"] == {"1": {"timeoutMs": 5}}
    assert _frames.read_u32_column(frame["ends"], 3) == (10, 20, 23)
    assert frame["again"] == 1
    assert _frames.seal_holds(frame["seals"][64:], tasks[2].key, b"abc")


def test_ids_are_version_8_uuids_that_rise_and_never_repeat() -> None:
    ids = _ids.TaskIds()
    seen = [ids.next() for _ in range(3000)]
    assert len(set(seen)) == 3000
    assert seen == sorted(seen)
    for raw in seen[:10]:
        assert raw[6] >> 4 == 8
        assert raw[8] >> 6 == 2
        assert _ids.from_uuid(_ids.to_uuid(raw)) == raw
    batch = _ids.new_batch_id(5, bytes([9] * 10))
    assert batch == _ids.new_batch_id(5, bytes([9] * 10))
    assert _ids.task_id(batch, (1 << 20) - 1)[:13] == batch[:13]
    with pytest.raises(ValueError, match="UUID"):
        _ids.from_uuid("not one")


def test_a_batch_id_serves_a_million_tasks_and_then_there_is_a_new_one() -> None:
    ids = _ids.TaskIds()
    first = ids.next()
    import itertools

    prefix, base, _ = ids._batch
    ids._batch = (prefix, base, itertools.count((1 << 20) - 1))
    last, fresh = ids.next(), ids.next()
    assert last == _ids.task_id(first, (1 << 20) - 1)
    assert fresh[:13] != first[:13]


def test_limits_are_those_of_the_protocol() -> None:
    text = (PROTOCOL / "src/limits.ts").read_text()
    for name, value in re.findall(r"export const (\w+) = ([\d_* <]+);", text):
        if hasattr(_limits, name):
            assert getattr(_limits, name) == eval(value.replace("_", "")), name


def test_the_catalogue_is_the_protocols() -> None:
    script = ROOT / "python/scripts/make_catalogue.mjs"
    result = subprocess.run(["node", str(script), "--check"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_states_and_reasons_are_the_protocols() -> None:
    text = (PROTOCOL / "src/task/outcome.ts").read_text()
    block = re.search(r"export const REASONS = \{(.*?)\n\}", text, re.DOTALL)
    assert block is not None
    numbers = {name: int(n) for name, n in re.findall(r"^  (\w+): (\d+),", block[1], re.MULTILINE)}
    assert {name: n for n, name in enumerate(_frames.REASONS)} == numbers


def test_every_error_has_its_message_filled_in() -> None:
    for code, (status, retryable, _) in _catalogue.ERRORS.items():
        error = FarloomError(code, detail="D")
        assert (error.status, error.retryable) == (status, retryable)
        assert "{detail}" not in str(error)


def test_a_problem_document_keeps_the_services_words() -> None:
    body = json.dumps({"code": "RATE_LIMITED", "detail": "Wait 3 s.", "retryable": True}).encode()
    error = parse_problem(429, body, "3")
    assert (error.code, str(error), error.retryable, error.retry_after_s) == ("RATE_LIMITED", "Wait 3 s.", True, 3.0)
    assert parse_problem(502, b"<html>", None).retryable
    assert parse_problem(404, b"<html>", None).code == "HTTP_404"


def test_errors_survive_pickling() -> None:
    import pickle

    error = task_error(TaskEnd("id", "LOST", "agent_lost", None))
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.code, back.task_id) == (type(error), "TASK_LOST", "id")


def test_an_outbox_keeps_what_no_mark_covers() -> None:
    outbox, lane = Outbox(), Lane(bytes(16), bytes(16))
    tasks = make(10, lane)
    for task in tasks:
        task.phase = SENT
    outbox.push(tasks[:4])
    outbox.push(tasks[4:])
    assert outbox.mark(10, 6) == tasks[:6]
    assert outbox.refuse(8, 2) == tasks[7:9]
    assert outbox.mark(10, 5) == "mark 10/5 goes back from 10/6"
    assert outbox.mark(11, 6) == "mark 11/6 is beyond 10 sent"
    tasks[9].phase = SETTLED
    assert outbox.restart() == [tasks[6]]
    assert outbox.mark(0, 0) == []


def test_lanes_cut_frames_within_room_and_keep_repetitions_apart() -> None:
    lanes, one, two = Lanes(), Lane(bytes(16), b"1" * 16), Lane(bytes(16), b"2" * 16)
    first, second = make(5000, one), make(3, two, size=400_000)
    for task in [*first, *second]:
        lanes.push(task)
    first[1].phase = SETTLED
    first[5].sends = 1
    cut = lanes.next(10_000, 1 << 30)
    assert cut is not None
    assert (cut.tasks, cut.again) == ([first[0], *first[2:5]], False)
    assert lanes.skipped == 1
    cut = lanes.next(10_000, 1 << 30)
    assert cut is not None
    assert len(cut.tasks) == 3  # The third begins below the target of 1 MiB.
    cut = lanes.next(10_000, 1 << 30)
    assert cut is not None
    assert (cut.tasks, cut.again) == ([first[5]], True)
    cut = lanes.next(10_000, 1 << 30)
    assert cut is not None
    assert len(cut.tasks) == 4096
    assert lanes.next(0, 1) is None


def test_credit_never_shrinks() -> None:
    credit = Credit()
    credit.grant(10, 100)
    credit.grant(5, 200)
    credit.use(4, 50)
    assert (credit.room_tasks, credit.room_bytes) == (6, 150)
