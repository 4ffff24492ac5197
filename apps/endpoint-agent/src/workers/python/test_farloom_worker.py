"""Unit tests of the Python worker's codec and parts. Run: python3 -m unittest discover -s <this folder>."""

import datetime
import json
import math
import os
import pickle
import random
import struct
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import farloom_worker as fw  # noqa: E402

VECTORS = os.path.join(HERE, "..", "..", "..", "..", "..", "packages", "protocol", "vectors", "frames.json")


def revive(value):
    if isinstance(value, list):
        return [revive(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: revive(item) for key, item in value.items()}
    return value


def has_wide_integer(value):
    """JavaScript has one kind of number: above 32 bits its encoder writes a float64 of the same value."""
    if isinstance(value, dict):
        return any(map(has_wide_integer, value.values()))
    if isinstance(value, list):
        return any(map(has_wide_integer, value))
    return type(value) is int and value >= 2**32


def random_value(rng, depth=0):
    kind = rng.randrange(12 if depth < 5 else 9)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.randrange(-40, 140)
    if kind == 3:
        return rng.choice([-1, 1]) * rng.getrandbits(rng.randrange(1, 63))
    if kind == 4:
        return rng.getrandbits(64)
    if kind == 5:
        return rng.uniform(-1e300, 1e300)
    if kind == 6:
        return "".join(rng.choice("aZ\u00e9\u4e2d\U0001f600\0") for _ in range(rng.choice([0, 3, 31, 32, 300])))
    if kind == 7:
        return bytes(rng.getrandbits(8) for _ in range(rng.choice([0, 1, 255, 256, 70000 if depth == 0 else 40])))
    if kind == 8:
        return datetime.datetime(2024, 1, 2, 3, 4, 5, rng.randrange(10**6), datetime.timezone.utc)
    size = rng.choice([0, 1, 5, 15, 16, 40])
    if kind < 11:
        return [random_value(rng, depth + 1) for _ in range(size)]
    return {"k%d" % i: random_value(rng, depth + 1) for i in range(size)}


class Codec(unittest.TestCase):
    def test_golden_vectors_decode_to_the_frame_and_encode_to_the_bytes(self):
        with open(VECTORS, encoding="utf-8") as file:
            vectors = json.load(file)
        self.assertGreater(len(vectors), 10)
        for vector in vectors:
            with self.subTest(vector["name"]):
                frame = revive(vector["frame"])
                raw = bytes.fromhex(vector["hex"])
                self.assertEqual(fw.unpack(raw, 16), frame)
                self.assertEqual(fw.unpack(fw.pack(frame, 16), 16), frame)
                if not has_wide_integer(frame):
                    self.assertEqual(fw.pack(frame, 16).hex(), vector["hex"])

    def test_random_values_survive_the_way_there_and_back(self):
        rng = random.Random(20240607)
        for _ in range(400):
            value = random_value(rng)
            self.assertEqual(fw.unpack(fw.pack(value)), value)

    def test_edges_of_integers_and_floats(self):
        for exponent in (5, 7, 8, 15, 16, 31, 32, 63):
            for offset in (-1, 0, 1):
                for sign in (1, -1):
                    value = sign * 2**exponent + offset
                    if -(2**63) <= value < 2**64:
                        self.assertEqual(fw.unpack(fw.pack(value)), value)
        self.assertTrue(math.isnan(fw.unpack(fw.pack(float("nan")))))
        self.assertEqual(fw.unpack(b"\xca" + struct.pack(">f", 0.5)), 0.5)
        for value in (2**64, -(2**63) - 1, object(), {1, 2}, "\ud800", datetime.datetime(2024, 1, 1)):
            with self.assertRaises(fw.Unpackable):
                fw.pack(value)

    def test_malformed_bytes_raise_malformed_and_nothing_else(self):
        rng = random.Random(7)
        seeds = [fw.pack(random_value(rng)) for _ in range(60)]
        for seed in seeds:
            for _ in range(40):
                raw = bytearray(seed[: rng.randrange(len(seed) + 1)])
                for _ in range(rng.randrange(4)):
                    if raw:
                        raw[rng.randrange(len(raw))] = rng.getrandbits(8)
                try:
                    fw.unpack(bytes(raw))
                except fw.Malformed:
                    pass
        for raw in (b"", b"\xc1", b"\x91", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x00\x00", b"\xd4\x01\x00", b"\xa1\xff"):
            with self.assertRaises(fw.Malformed):
                fw.unpack(raw)

    def test_deep_values_are_refused_both_ways(self):
        with self.assertRaises(fw.Malformed):
            fw.unpack(b"\x91" * 100000 + b"\xc0")
        value = None
        for _ in range(fw.MAX_VALUE_DEPTH + 1):
            value = [value]
        with self.assertRaises(fw.Unpackable):
            fw.pack(value)

    def test_a_map_key_that_cannot_be_one_is_malformed(self):
        with self.assertRaises(fw.Malformed):
            fw.unpack(b"\x81\x90\xc0")


class Columns(unittest.TestCase):
    def test_a_results_frame_is_what_the_columns_say(self):
        items = [
            (b"a" * 16, 1, 1, 1, 0, 1, 2, 3, 4, b"null", None, 2**40, b"s" * 32),
            (b"b" * 16, 2, 5, 2, 1, 5, fw.duration(2**31), 7, 8, b"", {"error": {"type": "E", "message": "m"}}, 7, fw.NO_SEAL),
        ]
        frame = fw.unpack(fw.results_frame(items)[4:], 16)
        self.assertEqual(frame["n"], 2)
        self.assertEqual(frame["ids"], b"a" * 16 + b"b" * 16)
        self.assertEqual(frame["ends"], struct.pack("<II", 4, 4))
        self.assertEqual(frame["attempts"], struct.pack("<II", 1, 5))
        self.assertEqual(frame["states"], b"\1\2")
        self.assertEqual(frame["reasons"], b"\0\1")
        self.assertEqual(list(frame["detail"]), [1])
        self.assertEqual(frame["runUs"], struct.pack("<II", 2, 0x80000000 | 2147483))
        self.assertEqual(frame["fences"], struct.pack("<QQ", 2**40, 7))
        self.assertEqual(frame["seals"], b"s" * 32 + bytes(32))

    def test_one_result_is_written_as_the_columns_say_too(self):
        item = (b"a" * 16, 1, 1, 1, 0, 1, 2, 3, 4, b"null", None, 2**40 + 1, b"s" * 32)
        one = fw.unpack(fw.one_result_frame(item)[4:], 16)
        many = fw.unpack(fw.results_frame([item, item])[4:], 16)
        self.assertEqual(one["fences"], struct.pack("<Q", 2**40 + 1))
        self.assertEqual(many["fences"], 2**40 + 1)
        self.assertEqual(set(one), set(many))
        for name in ("ids", "data", "ends", "seals", "runUs"):
            self.assertEqual(one[name], many[name][: len(one[name])])

    def test_the_results_file_says_when_it_is_full(self):
        with tempfile.TemporaryDirectory() as folder:
            file = fw.ResultsFile(os.path.join(folder, "results"), 4096)
            item = (b"k" * 16, 1, 1, 1, 0, 1, 2, 3, 4, b"x" * 1000, None, 9, b"s" * 32)
            self.assertEqual([file.add(item) for _ in range(4)], [True, True, True, False])
            file.clear()
            self.assertTrue(file.add(item))
            self.assertEqual(file.map[5], 1)
            self.assertEqual(file.map[32 + 1048 : 32 + 1088], struct.pack("<Q", 9) + b"s" * 32)

    def test_what_is_said_of_a_task_with_secrets_is_not_said_of_the_next(self):
        with tempfile.TemporaryDirectory() as folder:
            file = fw.ResultsFile(os.path.join(folder, "results"), 4096)
            for is_recorded in (True, False):
                file.begin(b"k" * 16)
                file.guard()
                self.assertEqual(bytes(file.map[4:7]), b"\1\1\1")
                data = b"x" if is_recorded else b"x" * 8192
                self.assertEqual(file.add((b"k" * 16, 1, 1, 1, 0, 1, 2, 3, 4, data, None, 9, b"s" * 32)), is_recorded)
                if not is_recorded:
                    file.end()
                file.begin(b"n" * 16)
                self.assertEqual(bytes(file.map[4:7]), b"\1\1\0")


class Values(unittest.TestCase):
    def refused(self, codec, value):
        with self.assertRaises(fw.Failure) as caught:
            fw.encode_result(codec, value)
        return str(caught.exception)

    def test_results_that_cannot_travel_say_what_to_do(self):
        self.assertIn("msgpack", self.refused(fw.JSON, [float("inf")]))
        self.assertIn("base64", self.refused(fw.JSON, {"a": b""}))
        self.assertIn("pickle", self.refused(fw.JSON, {1, 2}))
        self.assertIn("surrogate", self.refused(fw.JSON, "\ud800"))

    def test_arguments_are_a_list_and_a_map(self):
        self.assertEqual(fw.decode_arguments(fw.JSON, b"[[],{}]"), ((), {}))
        self.assertEqual(fw.decode_arguments(fw.MSGPACK, fw.pack([[1], {"a": 2}])), ([1], {"a": 2}))
        for raw in (b"", b"[]", b"[1,2]", b"[[],[]]", b"{", b"\xff"):
            with self.assertRaises(fw.Failure):
                fw.decode_arguments(fw.JSON, raw)

    def test_a_tail_is_cut_at_a_character(self):
        self.assertEqual(fw.tail_text("x" + "\u00e9" * 10, 5), "\u00e9" * 2)


class Large:
    """Stands for an array: its bytes may travel beside the pickle."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Large, (pickle.PickleBuffer(self.data),)


class Bundles(unittest.TestCase):
    def whole(self, value):
        packed = fw.bundle_result(value)
        raw = b"".join(packed.pieces)
        self.assertEqual(len(raw), len(packed))
        return packed, raw

    def test_large_buffers_travel_beside_the_pickle_and_are_not_copied(self):
        first, second = bytearray(os.urandom(fw.MIN_BESIDE_BYTES)), bytearray(b"x" * 100_001)
        packed, raw = self.whole([Large(first), Large(second), "small"])
        self.assertLess(len(packed.pieces[1]), 300)
        self.assertIs(packed.pieces[3].obj, first)
        target = bytearray(raw)
        a, b, text = fw.unpickle(target)
        self.assertEqual((bytes(a.data), bytes(b.data), text), (bytes(first), bytes(second), "small"))
        at = target.index(b"x" * 100_001)
        self.assertEqual(at % fw.BUNDLE_ALIGN, 0)
        target[at] = 7
        self.assertEqual(b.data[0], 7)
        b.data[1] = 8
        self.assertEqual(target[at + 1], 8)

    def test_what_is_read_only_stays_so(self):
        packed, raw = self.whole(Large(bytes(fw.MIN_BESIDE_BYTES)))
        self.assertTrue(memoryview(fw.unpickle(bytearray(raw)).data).readonly)

    def test_small_buffers_and_plain_values_are_a_plain_pickle(self):
        for value in ({"a": [1, 2]}, Large(bytearray(fw.MIN_BESIDE_BYTES - 1)), bytes(1_000_000)):
            packed = fw.bundle_result(value)
            self.assertIs(type(packed), bytes)
            self.assertEqual(type(pickle.loads(packed)), type(value))

    def test_a_bundle_that_is_cut_or_lies_is_refused_and_nothing_else_is_raised_of_it(self):
        _, raw = self.whole(([], {"a": Large(bytearray(fw.MIN_BESIDE_BYTES))}))
        rng = random.Random(3)
        for cut in (8, 20, 30, 60, 200, len(raw) - 1):
            with self.assertRaises(fw.Failure):
                fw.decode_arguments(fw.PICKLE, bytearray(raw[:cut]))
        for _ in range(200):
            bad = bytearray(raw)
            bad[rng.randrange(8, 40)] = rng.randrange(256)
            try:
                fw.decode_arguments(fw.PICKLE, bad)
            except fw.Failure:
                pass


class Worker:
    """As far as progress sees it."""

    def __init__(self):
        self.current = fw.Task(b"k" * 16, None, 1, b"", 1, None, 0, 0, None)
        self.forked = False
        self.caps = {"progress"}
        self.said = []

    def say(self, frame):
        self.said.append((frame["done"], frame.get("total")))


class Reports(unittest.TestCase):
    def test_of_many_calls_the_first_and_the_last_are_told_and_a_few_in_a_second(self):
        worker = Worker()
        tell = fw.Progress(worker)
        began = time.monotonic()
        for i in range(20_000):
            tell(i, 20_000)
        most = 2 + (time.monotonic() - began) / fw.PROGRESS_EVERY_S
        until = time.monotonic() + 10
        while worker.said[-1] != (19_999, 20_000) and time.monotonic() < until:
            time.sleep(0.02)
        self.assertEqual(worker.said[0], (0, 20_000))
        self.assertEqual(worker.said[-1], (19_999, 20_000))
        self.assertLessEqual(len(worker.said), most)

    def test_a_late_word_of_a_task_that_is_over_is_not_told(self):
        worker = Worker()
        tell = fw.Progress(worker)
        tell(1)
        tell(2)
        worker.current = fw.Task(b"l" * 16, None, 1, b"", 1, None, 0, 0, None)
        time.sleep(fw.PROGRESS_EVERY_S * 2)
        self.assertEqual(worker.said, [(1, None)])

    def test_outside_a_task_in_a_fork_and_for_a_peer_that_does_not_know_it_nothing_is_said(self):
        worker = Worker()
        tell = fw.Progress(worker)
        for name, value in (("current", None), ("forked", True), ("caps", ())):
            before = getattr(worker, name)
            setattr(worker, name, value)
            tell(1, 2)
            setattr(worker, name, before)
        self.assertEqual(worker.said, [])

    def test_numbers_of_any_kind_are_taken_and_nothing_else(self):
        self.assertEqual([fw.plain_number(v, "done") for v in (3, 2.0, 0.5, True)], [3, 2, 0.5, 1])
        for value in (-1, float("nan"), float("inf"), "x", None):
            with self.assertRaises(ValueError):
                fw.plain_number(value, "done")


class Replacement(unittest.TestCase):
    def test_a_worker_is_replaced_after_so_many_tasks(self):
        recycling = fw.Recycling({"tasks": 3})
        due = []
        for _ in range(3):
            recycling.ran(0)
            due.append(recycling.is_due)
        self.assertEqual(due[:2], [None, None])
        self.assertIn("3 tasks", due[2])

    def test_only_memory_that_cannot_be_given_back_counts(self):
        bound_kb = fw.resident_kb() + 100 * 1024
        recycling = fw.Recycling({"memoryKb": bound_kb})
        freed = [bytearray(1000) for _ in range(200_000)]
        for i, piece in enumerate(freed):
            piece[0] = i & 255
        del freed, piece
        recycling.ran(bound_kb + 1)
        self.assertIsNone(recycling.is_due)
        kept = bytearray(os.urandom(1)) * (150 * 1024 * 1024)
        recycling.ran(bound_kb + 1)
        self.assertIn("MiB between tasks", recycling.is_due)
        del kept

    def test_by_default_nothing_is_replaced(self):
        recycling = fw.Recycling({})
        for _ in range(3000):
            recycling.ran(1 << 40)
        self.assertIsNone(recycling.is_due)


class Masks(unittest.TestCase):
    def test_secrets_are_masked_as_the_agent_masks_them(self):
        with open(os.path.join(os.path.dirname(VECTORS), "masks.json"), encoding="utf-8") as file:
            vectors = json.load(file)
        self.assertGreater(len(vectors), 10)
        for case in vectors:
            needles = fw.needles_of(case["secrets"])
            raw = fw.mask(case["text"].encode(), needles, case.get("start", False), case.get("end", False))
            self.assertEqual(raw.decode(), case["masked"], case["title"])

    def test_an_exception_that_holds_a_secret_does_not_travel(self):
        class Linked:
            results = type("Results", (), {"guard": staticmethod(lambda: None)})

        secrets = fw.TaskSecrets(Linked)
        secrets._needles = fw.needles_of(["hunter2-hunter2"])
        for text, stays in (("with hunter2-hunter2", False), ("without", True)):
            error = {"type": "E", "message": text} | fw.exception_data(ValueError(text))
            self.assertEqual("data" in secrets.masked({"error": error})["error"], stays)


if __name__ == "__main__":
    unittest.main()
