#!/usr/bin/env python3
"""The Python worker of Farloom: one warm process that runs one task at a time.

It needs Python 3.8 or later and the standard library, nothing else. Its node manager starts it, hands it a JSON
configuration on standard input, and it dials the node manager's Unix socket: frames of PROTOCOL.md, each after a
u32 big-endian length. The same file is the worker of the runtimes `python` (functions) and `command` (programs).

Two threads:
  main    reads tasks, runs them, writes results. User code runs here, as signal handlers and many libraries
          want the main thread.
  sentry  sleeps in a read of the control connection. It wakes when the node manager wants back what has not
          begun (`cancel`), when it brings a token or secrets that are waited for (`grant`), and when the link breaks: then it dials again while the main thread may be deep in
          user code.

Invariants
  W1  A task leaves `pending` by exactly one atomic deque operation: popleft by main, which then runs it, or pop by
      the sentry, which then reports it as returned. So a task is never both.
  W2  Before a task starts, every earlier result that no mark covers lies in the results file (shared memory that
      outlives this process), whether it was sent or not: a socket may break with what it holds. The file also names
      the task that runs. When the worker dies, the node manager knows what finished, what ran and what had not begun.
  W3  A result is kept until the node manager's durable mark covers it, and is sent again on the next link (P11).
  W4  A results frame is never held back while a task of unknown length runs on an empty queue; with a queue, the
      node manager's `cancel` makes the sentry send what is finished.
  W5  What a task leaves behind (output, environment, working directory, files in the scratch folder) is taken or
      undone before the next one starts.
  W6  A worker that is to be replaced (Recycling) runs nothing more, and leaves when it has given back what it had not
      begun and nobody lacks a result of it.

Bounds: `pending` holds what the node manager sends ahead (5-10 ms of work, at most 512 tasks); results await marks
for as many tasks as there was credit; 256 functions are known and compiled; a frame has at most 8 MiB.
"""

import _thread
import binascii
import collections
import datetime
import errno
import faulthandler
import functools
import gc
import hashlib
import inspect
import io
import json
import linecache
import math
import mmap
import os
import pickle
import resource
import shlex
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types

VERSION = "0.1.0"
PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_INLINE_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024 * 1024
MAX_OUTPUT_TAIL_BYTES = 64 * 1024
MAX_TRACEBACK_BYTES = 16 * 1024
# A pickled exception, in base64; a larger one is told of by its type and message alone.
MAX_ERROR_DATA_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 4096
# Deeper values are refused: the recursion limit of any peer is near.
MAX_VALUE_DEPTH = 256
# Both sides count functions in the order in which they were sent and forget the oldest (node manager: worker-link).
MAX_FUNCTIONS = 256
ORPHAN_S = 60.0
# A results frame is closed after this much work, so that results do not wait for a long queue.
FLUSH_AFTER_NS = 500_000
FLUSH_ITEMS = 1024
# Between tasks the socket is looked at when this much time has passed since the last look.
POLL_AFTER_NS = 1_000_000
# Tasks shorter than this cannot have started a process or used memory worth a system call to ask.
MEASURE_AFTER_NS = 200_000
# A folder's time of change may be this much older than the change: a timer tick, or two seconds on FAT and NFS v2.
MTIME_STEP_NS = 2_100_000_000
# Shorter ones cannot have made a file.
SCRATCH_AFTER_NS = 10_000
# Buffers of this size and more travel beside the pickle: below it, a copy costs less than an entry in a table.
MIN_BESIDE_BYTES = 64 * 1024
# Payload files of this size and more are mapped, not read.
MIN_MAPPED_BYTES = 256 * 1024
PIECE_BYTES = 1024 * 1024
# The agent tries to get a task's secrets for two minutes.
SECRETS_WAIT_S = 300.0
# Shorter values are not masked, and less than a part of a secret at an edge is no hint (MIN_MASKED_BYTES, secrets/masks.ts).
MIN_MASKED_BYTES = 6
MIN_PART_BYTES = 4
MAX_MASKED_LINES = 256
# `farloom.progress` is told this often at most.
PROGRESS_EVERY_S = 0.25
# A worker that is to be replaced waits so long for the marks of its results.
LAST_MARKS_S = 10.0

SUCCEEDED, FAILED = 1, 2
R_NONE, R_USER_ERROR, R_TOO_LARGE, R_NOT_AUTHORISED, R_FUNCTION, R_ENVIRONMENT = 0, 1, 4, 5, 7, 8
R_ARGUMENTS, R_RESULT, R_EXIT, R_RUNTIME, R_PAYLOAD, R_CORRUPT = 14, 15, 16, 19, 20, 21
JSON, MSGPACK, PICKLE, REFERENCE = 1, 2, 3, 128

# For tests alone, as in @farloom/protocol/testing.
PLANTED = os.environ.get("FARLOOM_PLANT") if os.environ.get("FARLOOM_TEST_ONLY") == "1" else None


# ---------------------------------------------------------------------------------------------- MessagePack


class Malformed(ValueError):
    """Bytes that are not the MessagePack value they should be."""


class Unpackable(TypeError):
    """A value that MessagePack cannot carry."""


_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_I8 = struct.Struct(">b")
_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")
_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def unpack(data, max_depth=MAX_VALUE_DEPTH):
    """The one MessagePack value in `data` (bytes). Raises Malformed for anything else, and for nothing else."""
    try:
        value, end = _unpack(data, 0, max_depth)
    except (IndexError, struct.error):
        raise Malformed("truncated") from None
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None
    except (TypeError, OverflowError) as error:
        raise Malformed(str(error)) from None
    if end != len(data):
        raise Malformed("bytes after the end")
    return value


def _take(data, at, size):
    end = at + size
    if end > len(data):
        raise Malformed("truncated")
    return data[at:end], end


def _unpack(data, at, depth):
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 256, at
    if tag < 0x90:
        return _unpack_map(data, at, tag & 15, depth)
    if tag < 0xA0:
        return _unpack_array(data, at, tag & 15, depth)
    if tag < 0xC0:
        raw, at = _take(data, at, tag & 31)
        return str(raw, "utf-8"), at
    if tag == 0xC0:
        return None, at
    if tag == 0xC2:
        return False, at
    if tag == 0xC3:
        return True, at
    if tag == 0xC4:
        return _take(data, at + 1, data[at])
    if tag == 0xC5:
        return _take(data, at + 2, _U16.unpack_from(data, at)[0])
    if tag == 0xC6:
        return _take(data, at + 4, _U32.unpack_from(data, at)[0])
    if tag == 0xCA:
        return _F32.unpack_from(data, at)[0], at + 4
    if tag == 0xCB:
        return _F64.unpack_from(data, at)[0], at + 8
    if tag == 0xCC:
        return data[at], at + 1
    if tag == 0xCD:
        return _U16.unpack_from(data, at)[0], at + 2
    if tag == 0xCE:
        return _U32.unpack_from(data, at)[0], at + 4
    if tag == 0xCF:
        return _U64.unpack_from(data, at)[0], at + 8
    if tag == 0xD0:
        return _I8.unpack_from(data, at)[0], at + 1
    if tag == 0xD1:
        return _I16.unpack_from(data, at)[0], at + 2
    if tag == 0xD2:
        return _I32.unpack_from(data, at)[0], at + 4
    if tag == 0xD3:
        return _I64.unpack_from(data, at)[0], at + 8
    if tag == 0xD6 or tag == 0xD7 or tag == 0xC7:
        return _unpack_timestamp(data, at, tag)
    if tag == 0xD9:
        raw, at = _take(data, at + 1, data[at])
        return str(raw, "utf-8"), at
    if tag == 0xDA:
        raw, at = _take(data, at + 2, _U16.unpack_from(data, at)[0])
        return str(raw, "utf-8"), at
    if tag == 0xDB:
        raw, at = _take(data, at + 4, _U32.unpack_from(data, at)[0])
        return str(raw, "utf-8"), at
    if tag == 0xDC:
        return _unpack_array(data, at + 2, _U16.unpack_from(data, at)[0], depth)
    if tag == 0xDD:
        return _unpack_array(data, at + 4, _U32.unpack_from(data, at)[0], depth)
    if tag == 0xDE:
        return _unpack_map(data, at + 2, _U16.unpack_from(data, at)[0], depth)
    if tag == 0xDF:
        return _unpack_map(data, at + 4, _U32.unpack_from(data, at)[0], depth)
    raise Malformed("type 0x%02x is not taken" % tag)


def _unpack_array(data, at, n, depth):
    if depth <= 0:
        raise Malformed("nested too deep")
    if n > len(data) - at:
        raise Malformed("truncated")
    items = []
    for _ in range(n):
        item, at = _unpack(data, at, depth - 1)
        items.append(item)
    return items, at


def _unpack_map(data, at, n, depth):
    if depth <= 0:
        raise Malformed("nested too deep")
    if 2 * n > len(data) - at:
        raise Malformed("truncated")
    items = {}
    size = len(data)
    depth -= 1
    for _ in range(n):
        # Frames are maps of short names to small integers and short byte strings: these are taken here, as a
        # call of _unpack for each would cost more than the rest of the frame.
        tag = data[at]
        if 0xA0 <= tag < 0xC0:
            end = at + 1 + (tag & 31)
            if end > size:
                raise Malformed("truncated")
            key = str(data[at + 1 : end], "utf-8")
            at = end
        else:
            key, at = _unpack(data, at, depth)
        tag = data[at]
        if tag < 0x80:
            items[key] = tag
            at += 1
        elif tag == 0xC4:
            start = at + 2
            at = start + data[at + 1]
            if at > size:
                raise Malformed("truncated")
            items[key] = data[start:at]
        else:
            items[key], at = _unpack(data, at, depth)
    return items, at


def _unpack_timestamp(data, at, tag):
    size = 4 if tag == 0xD6 else 8
    if tag == 0xC7:
        size = data[at]
        at += 1
    if data[at] != 0xFF or size not in (4, 8, 12):
        raise Malformed("extension type %d is not taken" % data[at])
    raw, at = _take(data, at + 1, size)
    if size == 4:
        nanos, seconds = 0, _U32.unpack(raw)[0]
    elif size == 8:
        word = _U64.unpack(raw)[0]
        nanos, seconds = word >> 34, word & 0x3FFFFFFFF
    else:
        nanos, seconds = struct.unpack(">Iq", raw)
    return _EPOCH + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000), at


def pack(value, max_depth=MAX_VALUE_DEPTH):
    """`value` as MessagePack. Raises Unpackable where MessagePack has no such thing."""
    out = bytearray()
    _pack(value, out, max_depth)
    return bytes(out)


def _pack(value, out, depth):
    kind = type(value)
    if value is None:
        out.append(0xC0)
    elif value is True:
        out.append(0xC3)
    elif value is False:
        out.append(0xC2)
    elif kind is int:
        _pack_int(value, out)
    elif kind is str:
        raw = value.encode("utf-8", "surrogatepass") if value.isascii() else _utf8(value)
        size = len(raw)
        if size < 32:
            out.append(0xA0 | size)
        elif size < 256:
            out += bytes((0xD9, size))
        elif size < 65536:
            out.append(0xDA)
            out += _U16.pack(size)
        else:
            out.append(0xDB)
            out += _U32.pack(size)
        out += raw
    elif kind is bytes or kind is bytearray or kind is memoryview:
        size = value.nbytes if kind is memoryview else len(value)
        if size < 256:
            out += bytes((0xC4, size))
        elif size < 65536:
            out.append(0xC5)
            out += _U16.pack(size)
        else:
            out.append(0xC6)
            out += _U32.pack(size)
        out += value
    elif kind is float:
        out.append(0xCB)
        out += _F64.pack(value)
    elif isinstance(value, dict):
        if depth <= 0:
            raise Unpackable("the value is nested more than %d deep" % MAX_VALUE_DEPTH)
        _pack_size(len(value), out, 0x80, 0xDE)
        for key, item in value.items():
            _pack(key, out, depth - 1)
            _pack(item, out, depth - 1)
    elif isinstance(value, (list, tuple)):
        if depth <= 0:
            raise Unpackable("the value is nested more than %d deep" % MAX_VALUE_DEPTH)
        _pack_size(len(value), out, 0x90, 0xDC)
        for item in value:
            _pack(item, out, depth - 1)
    elif isinstance(value, datetime.datetime):
        _pack_timestamp(value, out)
    elif isinstance(value, (int, str, float)):
        # Subclasses such as IntEnum travel as what they are underneath.
        base = int if isinstance(value, int) else str if isinstance(value, str) else float
        _pack(base(value) if base is not str else str.__str__(value), out, depth)
    else:
        raise Unpackable("a value of type %s cannot travel" % kind.__name__)


def _utf8(text):
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise Unpackable("a string holds half a surrogate pair, which is not text") from None


def _pack_size(size, out, fix, wide):
    if size < 16:
        out.append(fix | size)
    elif size < 65536:
        out.append(wide)
        out += _U16.pack(size)
    else:
        out.append(wide + 1)
        out += _U32.pack(size)


def _pack_int(value, out):
    if 0 <= value < 128:
        out.append(value)
    elif -32 <= value < 0:
        out.append(value + 256)
    elif value >= 0:
        if value < 256:
            out += bytes((0xCC, value))
        elif value < 65536:
            out.append(0xCD)
            out += _U16.pack(value)
        elif value < 1 << 32:
            out.append(0xCE)
            out += _U32.pack(value)
        elif value < 1 << 64:
            out.append(0xCF)
            out += _U64.pack(value)
        else:
            raise Unpackable("the integer %s... needs more than 64 bits" % str(value)[:20])
    elif value >= -128:
        out.append(0xD0)
        out += _I8.pack(value)
    elif value >= -32768:
        out.append(0xD1)
        out += _I16.pack(value)
    elif value >= -(1 << 31):
        out.append(0xD2)
        out += _I32.pack(value)
    elif value >= -(1 << 63):
        out.append(0xD3)
        out += _I64.pack(value)
    else:
        raise Unpackable("the integer %s... needs more than 64 bits" % str(value)[:20])


def _pack_timestamp(value, out):
    if value.tzinfo is None:
        raise Unpackable("a datetime without a time zone is ambiguous; use datetime.now(timezone.utc)")
    delta = value - _EPOCH
    seconds = delta.days * 86400 + delta.seconds
    out += b"\xc7\x0c\xff"
    out += struct.pack(">Iq", delta.microseconds * 1000, seconds)


# ---------------------------------------------------------------------------------------------- the link


class LinkBroken(Exception):
    """The peer is gone; the sentry dials again."""


class FrameReader:
    """Cuts a socket's bytes into frames. Bytes land where they stay: one copy from the kernel."""

    def __init__(self, sock):
        self.sock = sock
        self._buffer = bytearray(256 * 1024)
        self._start = 0
        self._end = 0

    def fill(self, flags=0):
        """Reads once. Returns False where nothing was there (non-blocking); raises LinkBroken at the end."""
        buffer = self._buffer
        need = 4
        have = self._end - self._start
        if have >= 4:
            need = 4 + _U32.unpack_from(buffer, self._start)[0]
        if self._start + need > len(buffer) or self._end == len(buffer):
            fresh = buffer if need <= len(buffer) else bytearray(need)
            fresh[0:have] = buffer[self._start : self._end]
            self._buffer = buffer = fresh
            self._start, self._end = 0, have
        with memoryview(buffer) as view:
            try:
                got = self.sock.recv_into(view[self._end :], 0, flags)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise LinkBroken(str(error)) from None
        if got == 0:
            raise LinkBroken("closed by the node manager")
        self._end += got
        return True

    def take(self):
        """The next whole frame, decoded, or None."""
        have = self._end - self._start
        if have < 4:
            return None
        size = _U32.unpack_from(self._buffer, self._start)[0]
        if size > MAX_FRAME_BYTES:
            raise LinkBroken("a frame of %d bytes" % size)
        if have < 4 + size:
            return None
        at = self._start + 4
        frame = unpack(bytes(memoryview(self._buffer)[at : at + size]), 16)
        self._start = at + size
        if self._start == self._end:
            self._start = self._end = 0
        return frame if isinstance(frame, dict) else {}


def with_length(frame):
    body = pack(frame, 16)
    return _U32.pack(len(body)) + body


_RECORD = struct.Struct("<16sBBBxIIIIIII")


class ResultsFile:
    """Shared memory that outlives the process (W2).

    Layout: u32 bytes used; at 4 u8 whether a task runs; at 8 its id; at 24 u32 where the first record begins that no
    mark covers (what lies in a socket dies with whoever does not read it to its end); from 32 the records: id, codec, state, reason, attempt, queue, run, cpu, peak, size of data, size of detail, data, detail.
    A 1 at 6: the task that runs was given secrets. A 1 at 5 says that behind each detail, and counted in its size, lie the result's fence (u64) and its seal (32).
    """

    HEAD = 32

    def __init__(self, path, size=1024 * 1024):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            try:
                # On a full disk this says so now; a write into a hole of the map would end the process with SIGBUS.
                os.posix_fallocate(fd, 0, size)
            except AttributeError:
                pass
            self.map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._size = size
        self._at = self._first = self.HEAD
        # Where each record ends, from `_first` on; one that had no room ends where it would have begun.
        self._ends = collections.deque()
        self.map[5] = 1
        self.clear()

    def begin(self, key):
        m = self.map
        m[8:24] = key
        m[4] = 1

    def guard(self):
        self.map[6] = 1

    def end(self):
        self.map[4] = 0
        self.map[6] = 0

    def add(self, item):
        """Records a result; returns False where there is no room for it, and it must go out at once."""
        key, codec, attempt, state, reason, queue_us, run_us, cpu_us, peak_kb, data, detail, fence, seal = item
        packed = b"" if detail is None else pack(detail, 16)
        at = self._at
        size = len(packed) + 40
        end = at + 48 + len(data) + size
        if end > self._size:
            moved = self._first - self.HEAD
            if moved > 0:
                self._compact()
                at -= moved
                end -= moved
            if end > self._size:
                self._ends.append(at)
                return False
        m = self.map
        _RECORD.pack_into(
            m, at, key, codec, state, reason, attempt, queue_us, run_us, cpu_us, peak_kb, len(data), size
        )
        m[at + 48 : end] = b"".join((data, packed, _LE64.pack(fence), seal))
        self._at = end
        self._ends.append(end)
        _HEAD.pack_into(m, 0, end - self.HEAD, 0, 1, 0)
        return True

    def keep(self, n):
        """No mark covers the last `n` that were added; what came before them is not wanted any more."""
        ends = self._ends
        if n == 0:
            self.clear()
        elif n < len(ends):
            for _ in range(len(ends) - n):
                self._first = ends.popleft()
            _LE32.pack_into(self.map, 24, self._first)

    def clear(self):
        self._at = self._first = self.HEAD
        self._ends.clear()
        _LE32.pack_into(self.map, 0, 0)
        _LE32.pack_into(self.map, 24, self.HEAD)

    def _compact(self):
        """Moves what is wanted to the front. For that moment there is nothing to be read."""
        moved = self._first - self.HEAD
        size = self._at - self._first
        _LE32.pack_into(self.map, 0, 0)
        self.map.move(self.HEAD, self._first, size)
        self._first = self.HEAD
        self._at -= moved
        self._ends = collections.deque(end - moved for end in self._ends)
        _LE32.pack_into(self.map, 24, self.HEAD)
        _LE32.pack_into(self.map, 0, size)


_LE32 = struct.Struct("<I")
_LE64 = struct.Struct("<Q")
_HEAD = struct.Struct("<IBBB")


# One plain result, field by field as results_frame below would write it: the whole of a single call's answer.
_ONE_HEAD = b"\x8d\xa1t\xa7results\xa1n\x01\xa3ids\xc4\x10"
_ONE_NAMES = [b"\xa6codecs\xcc", b"\xa6states\xcc", b"\xa7queueUs\xc4\x04", b"\xa5runUs\xc4\x04"]
_ONE_NAMES += [b"\xa5cpuUs\xc4\x04", b"\xa6peakKb\xc4\x04", b"\xa4ends\xc4\x04"]
_ONE_NAMES += [b"\xa6fences\xc4\x08", b"\xa5seals\xc4\x20", b"\xa4data\xc5"]
_ONE = struct.Struct("<" + "".join("%ds%s" % (len(name), kind) for name, kind in zip(_ONE_NAMES, [*"BBIIIIIQ", "32s", "2s"])))
_N1, _N2, _N3, _N4, _N5, _N6, _N7, _N8, _N9, _N10 = _ONE_NAMES


def one_result_frame(item):
    """results_frame of a single item that has no reason, no detail, a first attempt and less than 64 KiB."""
    key, codec, _, state, _, queue_us, run_us, cpu_us, peak_kb, data, _, fence, seal = item
    size = len(data)
    columns = _ONE.pack(
        *(_N1, codec, _N2, state, _N3, queue_us, _N4, run_us, _N5, cpu_us, _N6, peak_kb),
        *(_N7, size, _N8, fence, _N9, seal, _N10, _U16.pack(size)),
    )
    return b"".join((_U32.pack(len(_ONE_HEAD) + 16 + len(columns) + size), _ONE_HEAD, key, columns, data))


def results_frame(items):
    """The columns of PROTOCOL.md for these results, with the length in front."""
    n = len(items)
    if n == 1:
        item = items[0]
        if item[10] is None and item[4] == 0 and item[2] == 1 and len(item[9]) < 65536:
            return one_result_frame(item)
    keys, codecs, attempts, states, reasons, queue, run, cpu, peak, data, details, fences, seals = zip(*items)
    ends = []
    at = 0
    for piece in data:
        at += len(piece)
        ends.append(at)
    u32 = struct.Struct("<%dI" % n)
    frame = {
        "t": "results",
        "n": n,
        "ids": b"".join(keys),
        "codecs": bytes(codecs),
        "ends": u32.pack(*ends),
        "data": b"".join(data),
        "states": bytes(states),
        "queueUs": u32.pack(*queue),
        "runUs": u32.pack(*run),
        "cpuUs": u32.pack(*cpu),
        "peakKb": u32.pack(*peak),
        "seals": b"".join(seals),
    }
    # One number where all are of one lease.
    frame["fences"] = fences[0] if fences.count(fences[0]) == n else struct.pack("<%dQ" % n, *fences)
    if any(reasons):
        frame["reasons"] = bytes(reasons)
    if attempts.count(1) != n:
        frame["attempts"] = u32.pack(*attempts)
    detail = {i: d for i, d in enumerate(details) if d is not None}
    if detail:
        frame["detail"] = detail
    return with_length(frame)


class Function:
    """A definition as it came, and what a runner made of it."""

    __slots__ = ("digest", "runtime", "format", "code", "entry", "timeout_ms", "env", "command", "call", "bad", "vars", "secrets")

    def __init__(self, definition):
        self.digest = definition["digest"]
        self.runtime = definition["runtime"]
        self.format = definition["format"]
        self.code = definition["code"]
        self.entry = definition["entry"]
        self.timeout_ms = definition.get("timeoutMs") or 0
        self.env = definition.get("env") or {}
        self.command = definition.get("command")
        self.vars = self.env.get("vars") or None
        self.secrets = self.env.get("secrets") or None
        self.call = None
        self.bad = None


class Task:
    """One call, as it waits."""

    __slots__ = ("key", "fn", "codec", "args", "attempt", "opts", "came_ns", "fence", "seal")

    def __init__(self, key, fn, codec, args, attempt, opts, came_ns, fence, seal):
        self.key = key
        self.fn = fn
        self.codec = codec
        self.args = args
        self.attempt = attempt
        self.opts = opts
        self.came_ns = came_ns
        self.fence = fence
        # The caller's seal over `args`; None where there is no such column.
        self.seal = seal


class Worker:
    """The link and the loop. What a task means is the runner's business."""

    def __init__(self, config):
        self.config = config
        self.name = config["worker"]
        self.label = "%s (pid %d)" % (self.name, os.getpid())
        # Tests do not wait a minute.
        self.orphan_s = float(os.environ.get("FARLOOM_TEST_ORPHAN_S") or ORPHAN_S)
        self.results = ResultsFile(os.path.join(config["dir"], "results"))
        self.pending = collections.deque()
        self.current = None
        self.current_ns = 0
        self.done = collections.deque()
        self.done_bytes = 0
        # Frames not yet covered by a durable mark: (position of the last result in it, bytes).
        self.unmarked = collections.deque()
        self.sent = 0
        self.marked = 0
        self.functions = collections.OrderedDict()
        self.rx = threading.Lock()
        self.tx = threading.Lock()
        self.linked = threading.Event()
        self.reader = None
        self.control = None
        self.stopping = False
        # What both sides named (P7).
        self.caps = ()
        self.idle_since = time.monotonic()
        self.flushed_ns = 0
        self.polled_ns = 0
        self.forked = False
        self.runner = None
        self.own_token = OwnToken(self)
        self.secrets = TaskSecrets(self)
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self):
        # The child must never speak on the link: it would be taken for this worker.
        self.forked = True
        for reader in (self.reader, self.control):
            if reader is not None:
                try:
                    reader.sock.close()
                except OSError:
                    pass

    # ------------------------------------------------------------------ sentry

    def sentry(self):
        while True:
            try:
                self._dial()
                self.secrets.again()
                while True:
                    frame = self.control.take()
                    if frame is None:
                        self.control.fill()
                    elif frame.get("t") == "cancel":
                        self._give_back()
                    elif frame.get("t") == "grant":
                        self.own_token.take(frame)
                        self.secrets.take(frame)
            except Exception:
                # LinkBroken, or bytes that are no frame: either way the link is not to be trusted any more.
                pass
            self._unlink()

    def _unlink(self):
        self.linked.clear()
        for reader in (self.reader, self.control):
            if reader is not None:
                try:
                    reader.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.config["socket"])
        except OSError:
            sock.close()
            raise
        return sock

    def _hello(self, **more):
        hello = {
            "t": "hello",
            "role": "worker",
            "versions": [PROTOCOL_VERSION],
            "caps": ["ref", "cancel-running", "progress"],
            "software": "farloom-worker/%s python/%s" % (VERSION, ".".join(map(str, sys.version_info[:3]))),
            "worker": self.name,
            "secret": self.config["secret"],
            "pid": os.getpid(),
            "runtime": self.config["runtime"],
        }
        hello.update(more)
        return with_length(hello)

    def _dial(self):
        """Dials until it is welcome (P17). Leaves the process where nobody answers and nothing is left to do."""
        broken_at = time.monotonic()
        wait_s = 0.02
        while True:
            try:
                main = self._connect()
                control = self._connect()
                break
            except OSError:
                if self.current is None and not self.pending:
                    since = max(broken_at, self.idle_since)
                    if time.monotonic() - since > self.orphan_s:
                        self._leave_behind()
                        os._exit(0)
                time.sleep(wait_s)
                wait_s = min(0.5, wait_s * 2)
        reader = FrameReader(main)
        with self.tx:
            self._collect()
            current = self.current
            held = {}
            if current is not None:
                held[current.key] = True
            for task in list(self.pending):
                held[task.key] = True
            more = {"held": b"".join(held)}
            if current is not None:
                limit = (current.opts or {}).get("timeoutMs") or current.fn.timeout_ms
                more["running"] = current.key
                more["runningMs"] = max(0, (time.perf_counter_ns() - self.current_ns) // 1_000_000)
                more["limitMs"] = limit
                if self.secrets.values:
                    more["secrets"] = dict(self.secrets.values)
            self._send_on(main, self._hello(**more))
            welcome = None
            while welcome is None:
                reader.fill()
                welcome = reader.take()
            if welcome.get("t") != "welcome":
                os._exit(0)
            self.caps = frozenset(welcome.get("caps") or ())
            self._send_on(control, self._hello(channel="control"))
            # W3: what no mark covered goes first; positions count from zero again.
            old, self.unmarked, self.sent, self.marked = self.unmarked, collections.deque(), 0, 0
            for n, _, data in old:
                self.sent += n
                self.unmarked.append((n, self.sent, data))
                self._send_on(main, data)
            self.functions.clear()
            old_reader, old_control = self.reader, self.control
            self.reader = reader
            self.control = FrameReader(control)
            self._send_on(main, with_length({"t": "credit", "tasks": 2**32 - 1, "bytes": 2**48}))
        for stale in (old_reader, old_control):
            if stale is not None:
                stale.sock.close()
        self.linked.set()

    def _leave_behind(self):
        """Nobody came for these results: they go to a file, which the next agent reads (worker-files.ts)."""
        with self.tx:
            while self._collect() is not None:
                pass
            if not self.unmarked:
                return
            path = os.path.join(self.config["dir"], "kept")
            try:
                with open(path + ".new", "wb") as out:
                    for _, _, data in self.unmarked:
                        out.write(data)
                os.rename(path + ".new", path)
            except OSError:
                pass

    @staticmethod
    def _send_on(sock, data):
        try:
            sock.sendall(data)
        except OSError as error:
            raise LinkBroken(str(error)) from None

    def say(self, frame):
        """Sends a frame that may be lost with the link."""
        try:
            with self.tx:
                if self.linked.is_set():
                    self._send_on(self.reader.sock, with_length(frame))
        except LinkBroken:
            self._unlink()

    def _give_back(self):
        """Everything that has not begun goes back; everything finished goes out (W1, W4)."""
        if self.rx.acquire(False):
            # The main thread is not reading: it runs a task. What lies in the socket has not begun either.
            try:
                self._take_frames()
                while self.reader.fill(socket.MSG_DONTWAIT):
                    self._take_frames()
            finally:
                self.rx.release()
        keys = []
        while True:
            try:
                keys.append(self.pending.pop().key)
            except IndexError:
                break
        keys.reverse()
        self.flush(False)
        self._send_on(self.control.sock, with_length({"t": "returned", "ids": b"".join(keys)}))

    # ------------------------------------------------------------------ main

    def run(self, runner):
        self.runner = runner
        _thread.start_new_thread(self.sentry, ())
        self.linked.wait()
        pending = self.pending
        clock = time.perf_counter_ns
        recycling = runner.recycling
        while True:
            if recycling.is_due and self.linked.is_set() and self._step_down(recycling.is_due):
                return
            try:
                # Named before it is taken, so that the sentry's hello never misses it.
                self.current = pending[0]
                task = pending.popleft()
            except IndexError:
                self.current = None
                if not self._rest():
                    return
                continue
            self.current = task
            now = self.current_ns = clock()
            if self.done and (not pending or now - self.flushed_ns > FLUSH_AFTER_NS or len(self.done) >= FLUSH_ITEMS):
                self.flush(True)
            self.results.begin(task.key)
            item = runner.run(task)
            if not self.results.add(item):
                self.done.append(item)
                self.flush(True)
                self.results.end()
            else:
                self.done.append(item)
            self.current = None
            now = clock()
            if now - self.polled_ns > POLL_AFTER_NS:
                self.polled_ns = now
                self._poll()

    def _step_down(self, why):
        """W6: says goodbye, reads until the node manager has heard it, gives back what came meanwhile, and waits for
        the last marks. False: the link broke, and what is here is run as ever until there is one again."""
        self.flush(True)
        self.say({"t": "bye", "code": "DRAINING", "message": why})
        until = None
        try:
            while True:
                with self.rx:
                    self._take_frames()
                    if until is None and not self.stopping or until is not None and self.unmarked:
                        if not self.linked.is_set():
                            return False
                        if until is not None:
                            self.reader.sock.settimeout(max(0.01, until - time.monotonic()))
                        self.reader.fill()
                        continue
                if until is not None:
                    return True
                # Whatever was sent before the answer has come, as frames keep their order.
                until = time.monotonic() + LAST_MARKS_S
                keys = [task.key for task in iter(self._pop_pending, None)]
                self.say({"t": "returned", "ids": b"".join(keys)})
        except (LinkBroken, Malformed):
            if until is not None and time.monotonic() >= until:
                return True
            self._unlink()
            # The goodbye was of a session that is over.
            self.stopping = False
            return False

    def _pop_pending(self):
        try:
            return self.pending.popleft()
        except IndexError:
            return None

    def _rest(self):
        """Nothing is pending: everything goes out, and the thread waits for more. False: it is over."""
        self.flush(True)
        self.idle_since = time.monotonic()
        if self.stopping:
            return False
        try:
            if not self.linked.is_set():
                raise LinkBroken("not linked")
            with self.rx:
                # Frames may have come together with the welcome, or with others that gave no task.
                self._take_frames()
                if not self.pending and not self.stopping:
                    self.reader.fill()
                    self._take_frames()
        except (LinkBroken, Malformed):
            self._unlink()
            self.linked.wait()
        self.runner.around.mark_idle()
        self.polled_ns = time.perf_counter_ns()
        return True

    def _poll(self):
        try:
            with self.rx:
                if self.linked.is_set() and self.reader.fill(socket.MSG_DONTWAIT):
                    self._take_frames()
        except (LinkBroken, Malformed):
            self._unlink()

    def _take_frames(self):
        """Under rx: every whole frame that was read."""
        while True:
            frame = self.reader.take()
            if frame is None:
                return
            kind = frame.get("t")
            if kind == "tasks":
                self._take_tasks(frame)
            elif kind == "mark":
                self._take_mark(frame["durable"])
            elif kind == "functions":
                for definition in frame["defs"]:
                    self._take_function(definition)
            elif kind == "drain" or kind == "bye":
                self.stopping = True

    def _take_function(self, definition):
        fn = Function(definition)
        self.functions[fn.digest] = self.runner.known(fn)
        if len(self.functions) > MAX_FUNCTIONS:
            self.functions.popitem(last=False)

    def _take_mark(self, durable):
        unmarked = self.unmarked
        while unmarked and unmarked[0][1] <= durable:
            self.marked = unmarked.popleft()[1]

    def _take_tasks(self, frame):
        n = frame["n"]
        ids, args = frame["ids"], frame["args"]
        ends = struct.unpack("<%dI" % n, frame["ends"])
        functions = [self.functions.get(digest) for digest in frame["fns"]]
        indexes = frame.get("fn")
        indexes = struct.unpack("<%dH" % n, indexes) if indexes is not None else None
        codecs = frame["codecs"]
        one_codec = codecs if isinstance(codecs, int) else None
        attempts = frame.get("attempts")
        attempts = struct.unpack("<%dI" % n, attempts) if attempts is not None else None
        fences = frame.get("fences") or 0
        if isinstance(fences, bytes):
            fences, one_fence = struct.unpack("<%dQ" % n, fences), None
        else:
            # Another language's encoder may write a large number as a float of the same value.
            one_fence = int(fences)
        seals = frame.get("seals")
        opts = frame.get("opts")
        if opts:
            # Map keys are strings or integers, as the peer's encoder likes.
            opts = {int(key): value for key, value in opts.items()}
        came = time.perf_counter_ns()
        append = self.pending.append
        fn = functions[0]
        start = 0
        for i in range(n):
            end = ends[i]
            append(
                Task(
                    ids[16 * i : 16 * i + 16],
                    fn if indexes is None else functions[indexes[i]],
                    codecs[i] if one_codec is None else one_codec,
                    args[start:end],
                    1 if attempts is None else attempts[i],
                    opts.get(i) if opts else None,
                    came,
                    fences[i] if one_fence is None else one_fence,
                    None if seals is None else seals[32 * i : 32 * i + 32],
                )
            )
            start = end

    def _collect(self):
        """Under tx: moves finished results into a frame in custody. Returns the frame, if any."""
        items = []
        done = self.done
        size = 0
        while len(items) < 4096 and size < 1024 * 1024:
            try:
                item = done.popleft()
            except IndexError:
                break
            items.append(item)
            size += len(item[9])
        if not items:
            return None
        data = results_frame(items)
        self.sent += len(items)
        self.unmarked.append((len(items), self.sent, data))
        return data

    def flush(self, by_main):
        """Sends what is finished. Only main forgets in the results file, as only main writes into it (W2)."""
        try:
            with self.tx:
                while True:
                    data = self._collect()
                    if data is None:
                        break
                    if self.linked.is_set():
                        self._send_on(self.reader.sock, data)
        except LinkBroken:
            self._unlink()
        if by_main:
            with self.tx:
                self.results.keep(self.sent - self.marked + len(self.done))
            self.flushed_ns = time.perf_counter_ns()


# ---------------------------------------------------------------------------------------------- context


class TaskContext:
    """What a function may know of the task it runs in: `farloom.task`. Between tasks it is false and says None."""

    __slots__ = ("_worker",)

    def __init__(self, worker):
        self._worker = worker

    def __bool__(self):
        return self._worker.current is not None

    @property
    def id(self):
        task = self._worker.current
        if task is None:
            return None
        h = task.key.hex()
        return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))

    @property
    def attempt(self):
        """Counted from 1."""
        task = self._worker.current
        return None if task is None else task.attempt

    @property
    def fence(self):
        """Rises with every attempt and every lease: a store that keeps the highest it has seen refuses what is stale."""
        task = self._worker.current
        return None if task is None else task.fence

    @property
    def deadline(self):
        """Seconds until it is stopped, by its run time limit or its deadline; None where it has neither."""
        task = self._worker.current
        if task is None:
            return None
        now = time.perf_counter_ns()
        opts = task.opts or {}
        left = []
        limit = opts.get("timeoutMs") or task.fn.timeout_ms
        if limit:
            left.append(limit / 1e3 - (now - self._worker.current_ns) / 1e9)
        deadline = opts.get("deadlineMs")
        if deadline is not None:
            left.append(deadline / 1e3 - (now - task.came_ns) / 1e9)
        return max(0.0, min(left)) if left else None


    @property
    def nodes(self):
        """The whole nodes that it has, as the launcher calls them, this one first; None where it asked for none."""
        whole = self._whole()
        return None if whole is None else list(whole["nodes"])

    @property
    def ranks(self):
        """Processes that a program over those nodes is to have; None where it asked for no nodes."""
        whole = self._whole()
        return None if whole is None else whole.get("ranks")

    @property
    def mpi_prefix(self):
        """The words before a program that is to run so, for subprocess.run([*prefix, program]); empty without nodes."""
        whole = self._whole()
        return [] if whole is None else list(whole.get("prefix") or ())

    def _whole(self):
        task = self._worker.current
        return None if task is None else (task.opts or {}).get("whole")


class Progress:
    """`farloom.progress(done, total)`: tells the node manager how far the task is (P21).

    The first call is told at once, further ones PROGRESS_EVERY_S apart, and of those in between the last: a thread,
    which lives only while something waits to be told, sends it, as the function may be busy without calling again.
    """

    def __init__(self, worker):
        self._worker = worker
        self._lock = threading.Lock()
        self._last = None
        self._told_s = -PROGRESS_EVERY_S
        self._is_waiting = False

    def __call__(self, done, total=None):
        done, total = plain_number(done, "done"), None if total is None else plain_number(total, "total")
        worker = self._worker
        task = worker.current
        if task is None or worker.forked or "progress" not in worker.caps:
            return
        with self._lock:
            self._last = (task.key, done, total)
            if self._is_waiting:
                return
            wait_s = self._told_s + PROGRESS_EVERY_S - time.monotonic()
            if wait_s > 0:
                self._is_waiting = True
                _thread.start_new_thread(self._wait, (wait_s,))
                return
            self._told_s = time.monotonic()
        self._tell(task.key, done, total)

    def _wait(self, wait_s):
        time.sleep(wait_s)
        with self._lock:
            key, done, total = self._last
            self._is_waiting = False
            self._told_s = time.monotonic()
        task = self._worker.current
        if task is not None and task.key == key:
            self._tell(key, done, total)

    def _tell(self, key, done, total):
        frame = {"t": "progress", "ids": key, "kind": "progress", "done": done}
        if total is not None:
            frame["total"] = total
        self._worker.say(frame)


def plain_number(value, name):
    """An int or a float of the same value, whatever number it was. Raises ValueError for what is none, or negative."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("%s is a number, not %r" % (name, value)) from None
    if not math.isfinite(number) or number < 0:
        raise ValueError("%s is a finite number from 0 on, not %r" % (name, value))
    return int(number) if number.is_integer() and number < 2**53 else number


class OwnToken:
    """The token of the task that runs, for a function that submits tasks itself (P28).

    Asked for when the function first wants it, and anew when half of its time is over. The function's thread waits for
    the sentry, which hears the answer. It is kept in memory alone, and forgotten with the task.
    """

    def __init__(self, worker):
        self._worker = worker
        self._lock = threading.Lock()
        self._answer = None
        self._arrived = threading.Event()
        self._until = 0.0
        self._at_end = []

    def __call__(self, wait_s=20.0):
        """What came of it: `token`, `url`, `endpoint`, `group`; or `code` and `message`. None where no task runs."""
        worker = self._worker
        task = worker.current
        if task is None or worker.forked:
            return None
        if not (task.opts or {}).get("nested"):
            return {"code": "NESTED_NOT_ASKED"}
        with self._lock:
            if self._answer is None or time.monotonic() > self._until:
                self._answer = None
                self._arrived.clear()
                worker.say({"t": "ask", "ids": task.key})
                self._arrived.wait(wait_s)
            return self._answer or {"code": "NOT_READY"}

    def take(self, frame):
        """By the sentry."""
        task = self._worker.current
        if task is None or task.key != frame.get("ids"):
            return
        # What was refused is asked again the next time.
        self._until = time.monotonic() + frame.get("expiresInMs", 0) / 2000
        self._answer = frame
        self._arrived.set()

    def at_end(self, call):
        """`call` runs when the function has returned or raised, before its result goes out."""
        if self._worker.current is not None:
            self._at_end.append(call)

    def forget(self):
        """The function is over."""
        self._answer = None
        calls, self._at_end = self._at_end, []
        for call in calls:
            try:
                call()
            except Exception:
                traceback.print_exc()


class TaskSecrets:
    """The secrets of the task that runs (P40): `farloom.secret(name)`.

    Asked for before the function begins, kept in memory alone, and forgotten with the task. What the task writes and
    raises is masked before it leaves this process.
    """

    def __init__(self, worker):
        self._worker = worker
        # By name; None where the task has none.
        self.values = None
        self._needles = ()
        self._asked = None
        self._answer = None
        self._arrived = threading.Event()

    def __call__(self, name):
        values = self.values
        if values is None or name not in values:
            raise LookupError(
                "the task was given no secret %s: a function names its secrets where it is registered (secrets=[%r])"
                % (name, name)
            )
        return values[name]

    def fetch(self, task):
        """By main, before the function. Raises Failure where there are none."""
        self._answer = None
        self._arrived.clear()
        self._asked = task.key
        self.again()
        self._arrived.wait(SECRETS_WAIT_S)
        self._asked = None
        answer, self._answer = self._answer or {}, None
        values = answer.get("secrets")
        if values is None:
            code = answer.get("code") or "NOT_READY"
            reason = R_NOT_AUTHORISED if code.startswith("SECRET") else R_ENVIRONMENT
            raise Failure(reason, code, answer.get("message") or "no secrets came for the function")
        try:
            # No memory of this process, or of a program that it starts, lands in a file.
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        except (OSError, ValueError):
            pass
        self._needles = needles_of(values.values())
        self.values = values
        self._worker.results.guard()

    def again(self):
        """What was asked in a session that is over may be lost."""
        key = self._asked
        if key is not None:
            self._worker.say({"t": "ask", "ids": key, "secrets": True})

    def take(self, frame):
        """By the sentry."""
        if self._asked is not None and self._asked == frame.get("ids"):
            self._answer = frame
            self._arrived.set()

    def masked(self, detail):
        """What a task tells besides its result, without its secrets; changed in place."""
        if not self._needles or not detail:
            return detail
        for name in ("stdout", "stderr"):
            if name in detail:
                raw = detail[name].encode("utf-8", "replace")
                is_cut = len(raw) < detail.get(name + "Bytes", 0)
                detail[name] = mask(raw, self._needles, is_cut, True).decode("utf-8", "replace")
        error = detail.get("error")
        if error:
            message = error["message"]
            error["message"] = self._text(message, False, len(message) >= MAX_MESSAGE_CHARS)
            trace = error.get("traceback")
            if trace:
                error["traceback"] = self._text(trace, len(trace) * 4 >= MAX_TRACEBACK_BYTES, False)
            data = error.get("data")
            # The exception itself cannot be mended: its type and message are told.
            if data and any(needle in binascii.a2b_base64(data) for needle in self._needles):
                del error["data"]
        return detail

    def _text(self, text, start, end):
        return mask(text.encode("utf-8", "replace"), self._needles, start, end).decode("utf-8", "replace")

    def forget(self):
        """The task is over."""
        if self.values is not None:
            self.values.clear()
        self.values = None
        self._needles = ()


def needles_of(values):
    """What is looked for: the values, their lines, and the forms in which programs show them (secrets/masks.ts)."""
    from urllib.parse import quote

    found = set()
    for value in values:
        raw = value.encode("utf-8", "replace")
        found.add(raw)
        found.add(json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "replace"))
        found.add(quote(value, safe="!'()*-._~").encode())
        lines = value.replace("\r\n", "\n").split("\n")
        if 1 < len(lines) <= MAX_MASKED_LINES:
            found.update(line.encode("utf-8", "replace") for line in lines)
        for offset in range(3):
            text = binascii.b2a_base64(bytes(offset) + raw, newline=False).rstrip(b"=")
            # The characters that the value alone decides.
            end = len(text) - (1 if (offset + len(raw)) % 3 else 0)
            text = text[offset + 1 if offset else 0 : end]
            found.add(text)
            found.add(text.replace(b"+", b"-").replace(b"/", b"_"))
    return tuple(needle for needle in found if len(needle) >= MIN_MASKED_BYTES)


def mask(raw, needles, start=False, end=False):
    """`raw` with a star for each byte of a needle; at an edge that was cut, also of what may be a part of one."""
    out = None
    for needle in needles:
        size = len(needle)
        at = raw.find(needle)
        while at >= 0:
            out = out or bytearray(raw)
            out[at : at + size] = b"*" * size
            at = raw.find(needle, at + 1)
        if len(raw) < MIN_PART_BYTES:
            continue
        if start:
            at = needle.find(raw[:MIN_PART_BYTES], 1)
            while at > 0:
                part = min(size - at, len(raw))
                if needle[at : at + part] == raw[:part]:
                    out = out or bytearray(raw)
                    out[:part] = b"*" * part
                at = needle.find(raw[:MIN_PART_BYTES], at + 1)
        if end:
            last = raw[-MIN_PART_BYTES:]
            at = needle.find(last)
            while 0 <= at < size - MIN_PART_BYTES:
                part = at + MIN_PART_BYTES
                if raw.endswith(needle[:part]):
                    out = out or bytearray(raw)
                    out[-part:] = b"*" * part
                at = needle.find(last, at + 1)
    return raw if out is None else bytes(out)


class ContextFinder:
    """Offers a module `farloom` with `task` and `progress` in it, after all other finders: an installed one has precedence."""

    def __init__(self, module):
        self._module = module

    def find_spec(self, name, path=None, target=None):
        if name != "farloom":
            return None
        import importlib.machinery

        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return self._module

    def exec_module(self, module):
        pass


def only_installed(name):
    raise AttributeError(
        "a worker by itself offers farloom.task, farloom.progress and farloom.secret; for farloom.%s install the package farloom in the "
        "endpoint's environment" % name
    )


def expose_context(worker):
    """`import farloom` finds the context; the SDK of that name finds it in sys.modules["farloom_worker_context"]."""
    module = types.ModuleType("farloom", "What a function may know of the task it runs in.")
    module.task = TaskContext(worker)
    module.progress = Progress(worker)
    module.own_token = worker.own_token
    module.secret = worker.secrets
    module.__getattr__ = only_installed
    sys.modules["farloom_worker_context"] = module
    sys.meta_path.append(ContextFinder(module))


# ---------------------------------------------------------------------------------------------- outcomes

sha256 = hashlib.sha256
# Stands for none (P25).
NO_SEAL = bytes(32)
CORRUPT = "the arguments are not those that were sent for this task: they do not bear their seal. Nothing was run"


class Failure(Exception):
    """A task's end that is no success: a reason and what people read."""

    def __init__(self, reason, kind, message, trace=None, **detail):
        super().__init__(message)
        self.reason = reason
        self.detail = dict(detail)
        self.detail["error"] = {"type": kind, "message": message[:MAX_MESSAGE_CHARS]}
        if trace:
            self.detail["error"]["traceback"] = tail_text(trace, MAX_TRACEBACK_BYTES)


def tail_text(text, limit):
    """The last `limit` bytes of a text, cut at a character."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= limit else raw[-limit:].decode("utf-8", "ignore")


BUNDLE_MAGIC = b"\0FLPICK1"
_BUNDLE_HEAD = struct.Struct("<8sIIQ")
_BUNDLE_ENTRY = struct.Struct("<QQ")
BUNDLE_ALIGN = 64


class Bundle:
    """A pickle and the large buffers beside it, in pieces that were not copied (PROTOCOL.md section 6).

    Layout: the magic, u32 number of buffers, u32 0, u64 size of the pickle; for each buffer u64 where it begins, u64
    its size; the pickle; the buffers, each from a multiple of 64 on. All little-endian. No pickle begins with a zero.
    """

    __slots__ = ("pieces", "size")

    def __init__(self, packed, views):
        at = _BUNDLE_HEAD.size + _BUNDLE_ENTRY.size * len(views) + len(packed)
        head = [_BUNDLE_HEAD.pack(BUNDLE_MAGIC, len(views), 0, len(packed))]
        self.pieces = [b"", packed]
        for view in views:
            gap = -at % BUNDLE_ALIGN
            self.pieces += (bytes(gap), view)
            head.append(_BUNDLE_ENTRY.pack(at + gap, view.nbytes))
            at += gap + view.nbytes
        self.pieces[0] = b"".join(head)
        self.size = at

    def __len__(self):
        return self.size


def unpickle(raw):
    """The value of a pickle, or of a bundle; then its buffers are parts of `raw` and not copied."""
    if raw[: len(BUNDLE_MAGIC)] != BUNDLE_MAGIC:
        return pickle.loads(raw)
    whole = memoryview(bytearray(raw) if isinstance(raw, bytes) else raw)
    _, n, _, packed_size = _BUNDLE_HEAD.unpack_from(whole)
    table = _BUNDLE_HEAD.size
    start = table + n * _BUNDLE_ENTRY.size
    if start + packed_size > len(whole):
        raise pickle.UnpicklingError("the bundle is cut short")
    buffers = []
    for at, size in _BUNDLE_ENTRY.iter_unpack(whole[table:start]):
        if at + size > len(whole):
            raise pickle.UnpicklingError("the bundle is cut short")
        buffers.append(whole[at : at + size])
    return pickle.loads(whole[start : start + packed_size], buffers=buffers)


def decode_arguments(codec, raw):
    """(args, kwargs) of a call. Raises Failure."""
    try:
        if codec == JSON:
            if raw == b"[[],{}]":
                return (), {}
            value = json.loads(bytes(raw) if isinstance(raw, memoryview) else raw)
        elif codec == MSGPACK:
            value = unpack(bytes(raw))
        elif codec == PICKLE:
            value = unpickle(raw)
        else:
            raise Failure(R_ARGUMENTS, "ArgumentsInvalid", "codec %d is not known to this worker" % codec)
    except Failure:
        raise
    except RecursionError:
        raise Failure(R_ARGUMENTS, "ArgumentsInvalid", "the arguments are nested too deep") from None
    except ImportError as error:
        raise missing_module(error, "the pickled arguments") from None
    except BaseException as error:
        raise Failure(
            R_ARGUMENTS, "ArgumentsInvalid", "the arguments cannot be decoded: %s: %s" % (type(error).__name__, error)
        ) from None
    if type(value) not in (list, tuple) or len(value) != 2:
        raise Failure(R_ARGUMENTS, "ArgumentsInvalid", "the arguments are not [args, kwargs]")
    args, kwargs = value
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise Failure(R_ARGUMENTS, "ArgumentsInvalid", "the arguments are not [list, map]")
    return args, kwargs


_encode_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def encode_result(codec, value):
    """The result's bytes, in the codec of the arguments. Raises Failure."""
    try:
        if codec == JSON:
            if value is None:
                return b"null"
            return _encode_json(value).encode("utf-8")
        if codec == MSGPACK:
            return pack(value)
        return bundle_result(value)
    except Failure:
        raise
    except RecursionError:
        why = "it is nested too deep"
    except Unpackable as error:
        why = str(error)
    except UnicodeEncodeError:
        why = "a string holds half a surrogate pair, which is not text"
    except ValueError as error:
        if "JSON compliant" in str(error):
            why = "JSON has no NaN or Infinity: return None or a string for them, or submit with the msgpack codec"
        else:
            why = str(error)
    except TypeError as error:
        if codec == JSON and "bytes" in str(error):
            why = "JSON has no bytes: return text (base64), or submit with the msgpack or pickle codec"
        elif codec == JSON:
            why = "%s: return plain values (numbers, text, lists, dicts), or submit with the pickle codec" % error
        else:
            why = str(error)
    except BaseException as error:
        why = "%s: %s" % (type(error).__name__, error)
    raise Failure(R_RESULT, "ResultInvalid", "the result cannot be sent: %s" % why)


def pickle_result(value):
    try:
        return pickle.dumps(value, protocol=min(5, pickle.HIGHEST_PROTOCOL))
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        return cloudpickle.dumps(value, protocol=min(5, pickle.HIGHEST_PROTOCOL))


def bundle_result(value):
    """The value's pickle, its large buffers (a numpy array's data) beside it, where they lie."""
    views = []

    def beside(buffer):
        view = buffer.raw()
        if view.nbytes < MIN_BESIDE_BYTES:
            return True  # Into the pickle.
        views.append(view)
        return False

    try:
        packed = pickle.dumps(value, 5, buffer_callback=beside)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        views.clear()
        packed = cloudpickle.dumps(value, protocol=5, buffer_callback=beside)
    return Bundle(packed, views) if views else packed


def exception_data(error):
    """The exception itself, for a caller in Python: {"data": pickle in base64}, or nothing where it cannot travel."""
    try:
        raw = pickle_result(error)
    except BaseException:
        return {}
    if len(raw) > MAX_ERROR_DATA_BYTES * 3 // 4:
        return {}
    return {"data": binascii.b2a_base64(raw, newline=False).decode("ascii")}


def missing_module(error, what):
    name = getattr(error, "name", None) or "?"
    return Failure(
        R_ENVIRONMENT,
        type(error).__name__,
        "%s need the module %s, which Python %d.%d at %s lacks. Install it there: %s -m pip install %s"
        % (what, name, sys.version_info[0], sys.version_info[1], sys.executable, sys.executable, name.split(".")[0]),
    )


# ---------------------------------------------------------------------------------------------- around a task


class Output:
    """Standard output and error: files, so that C code and child processes are caught as well (W5)."""

    def __init__(self, folder):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.fds = []
        for target, name in ((1, "stdout"), (2, "stderr")):
            fd = os.open(os.path.join(folder, name), flags, 0o600)
            os.dup2(fd, target)
            os.set_inheritable(target, True)
            # What the interpreter said as it started belongs to no task.
            os.ftruncate(fd, 0)
            self.fds.append(fd)
        self._written = False
        self.out = self._text(1, "backslashreplace")
        self.err = self._text(2, "backslashreplace")
        sys.stdout = sys.__stdout__ = self.out
        sys.stderr = sys.__stderr__ = self.err
        self._flush_c = None
        try:
            import ctypes

            self._flush_c = ctypes.CDLL(None).fflush
        except (ImportError, OSError, AttributeError):
            pass

    def _text(self, fd, errors):
        output = self

        class Telling(io.BufferedWriter):
            def write(self, data):
                output._written = True
                return super().write(data)

        raw = io.FileIO(fd, "w", closefd=False)
        # By the line: where the process crashes, its last words are in the file, and who watches sees them as they come.
        return io.TextIOWrapper(Telling(raw), encoding="utf-8", errors=errors, line_buffering=True)

    def take(self, ran_ns):
        """What the task wrote, as parts of its detail; None for nothing.

        What a task of a few microseconds writes past sys.stdout, straight to the descriptor, is found with the
        next longer task: to ask after each would cost two system calls.
        """
        try:
            self.out.flush()
            self.err.flush()
        except (ValueError, OSError):
            # A function closed it, or the disk is full; later tasks still get theirs.
            self._reopen()
        if sys.stdout is not self.out:
            sys.stdout = self.out
        if sys.stderr is not self.err:
            sys.stderr = self.err
        if ran_ns < SCRATCH_AFTER_NS and not self._written:
            return None
        self._written = False
        if self._flush_c is not None:
            self._flush_c(None)
        out, err = self.fds
        if ran_ns < MEASURE_AFTER_NS and not os.lseek(out, 0, os.SEEK_CUR) and not os.lseek(err, 0, os.SEEK_CUR):
            return None
        detail = None
        for fd, name in ((out, "stdout"), (err, "stderr")):
            size = os.lseek(fd, 0, os.SEEK_END)
            if size:
                detail = detail or {}
                detail[name] = read_tail(fd, size).decode("utf-8", "replace")
                detail[name + "Bytes"] = size
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
        return detail

    def _reopen(self):
        for target, fd in ((1, self.fds[0]), (2, self.fds[1])):
            try:
                os.fstat(target)
            except OSError:
                os.dup2(fd, target)
        self.out = self._text(1, "backslashreplace")
        self.err = self._text(2, "backslashreplace")
        sys.stdout, sys.stderr = self.out, self.err


def read_tail(fd, size):
    start = max(0, size - MAX_OUTPUT_TAIL_BYTES)
    return os.pread(fd, size - start, start)


def whole_environment(whole):
    """What programs of a call over whole nodes find in their environment (P34c)."""
    return {
        "FARLOOM_NODES": ",".join(whole["nodes"]),
        "FARLOOM_RANKS": str(whole.get("ranks") or 1),
        # As a shell reads it.
        "FARLOOM_MPI_PREFIX": " ".join(shlex.quote(word) for word in whole.get("prefix") or ()),
    }


class Surroundings:
    """Environment, working directory and measures of a task, put back after it (W5).

    To ask the kernel after every task where it is would cost more than a short task takes: os.environ, os.chdir
    and os.fchdir tell when they are used, and after longer tasks everything is looked at anyway.
    """

    def __init__(self, folder):
        self.scratch = os.path.join(folder, "scratch")
        os.makedirs(self.scratch, exist_ok=True)
        # Where the sandbox shows other folders below it, their names stand here from the start.
        self._kept = frozenset(os.listdir(self.scratch))
        self._open_scratch()
        self._environ = os.environ._data
        self._base = dict(self._environ)
        self._moved = True
        self._changed = False
        self._watch_environment()
        self._watch_directory()
        self._cpu_ns = time.process_time_ns()
        self._at_ns = time.perf_counter_ns()
        # An interpreter that a wrapper script became has the script's children on its account.
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._children_s = usage.ru_utime + usage.ru_stime
        self._children_kb = usage.ru_maxrss
        self.peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._can_reset_peak = True
        # Set at levels of isolation that promise it.
        self.clearing = None

    def _open_scratch(self):
        self._fd = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._swept_ns = 0
        os.fchdir(self._fd)

    def _watch_environment(self):
        around = self

        class Environment(type(os.environ)):
            def __setitem__(self, key, value):
                around._changed = True
                super().__setitem__(key, value)

            def __delitem__(self, key):
                around._changed = True
                super().__delitem__(key)

        os.environ.__class__ = Environment

    def _watch_directory(self):
        for name in ("chdir", "fchdir"):
            setattr(os, name, self._telling(getattr(os, name)))

    def _telling(self, original):
        @functools.wraps(original)
        def move(path):
            self._moved = True
            return original(path)

        return move

    def enter(self, task):
        """Before a call. Nothing is done where nothing was left behind and nothing is asked for."""
        if self._moved:
            os.fchdir(self._fd)
            self._moved = False
        opts = task.opts
        if task.fn.vars:
            os.environ.update(task.fn.vars)
        if opts:
            whole = opts.get("whole")
            if whole:
                os.environ.update(whole_environment(whole))
            env = opts.get("env")
            if env:
                os.environ.update(env)
            cwd = opts.get("cwd")
            if cwd:
                try:
                    os.chdir(cwd)
                except OSError as error:
                    raise Failure(
                        R_ENVIRONMENT, type(error).__name__, "the working directory %s cannot be used: %s" % (cwd, error)
                    ) from None

    def leave(self, ran_ns):
        if (self._changed or ran_ns > MEASURE_AFTER_NS) and self._environ != self._base:
            for name in [name for name in self._environ if name not in self._base]:
                os.unsetenv(name)
                del self._environ[name]
            for name, value in self._base.items():
                if self._environ.get(name) != value:
                    os.putenv(name, value)
                    self._environ[name] = value
        self._changed = False
        if ran_ns > SCRATCH_AFTER_NS:
            if self.clearing is not None:
                self.clearing.clear()
            self._sweep()
            if ran_ns > MEASURE_AFTER_NS:
                self._moved = True

    def _sweep(self):
        """Empties the folder, where its times say that something was put into it since it was seen empty."""
        try:
            folder = os.fstat(self._fd)
            if folder.st_mtime_ns == self._swept_ns and folder.st_nlink:
                return
            if self._kept.issuperset(os.listdir(self._fd)) and folder.st_nlink:
                # File times step by a timer tick: only one that lies well behind tells the next change.
                if time.time_ns() - folder.st_mtime_ns > MTIME_STEP_NS:
                    self._swept_ns = folder.st_mtime_ns
                return
            self._swept_ns = 0
            for entry in os.scandir(self.scratch):
                if entry.name in self._kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
        except OSError:
            # The function removed or locked its own folder: a fresh one, and the link below says which.
            try:
                os.close(self._fd)
                shutil.rmtree(self.scratch, ignore_errors=True)
                os.makedirs(self.scratch, exist_ok=True)
                self._open_scratch()
            except OSError:
                os._exit(70)

    def measure(self, started_ns):
        """(CPU microseconds, peak KiB) of a task, its children included."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        cpu_ns = int((own.ru_utime + own.ru_stime) * 1e9)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        children_s = usage.ru_utime + usage.ru_stime
        # Since the last look this thread was busy until the task began.
        used_ns = cpu_ns - self._cpu_ns - max(0, min(started_ns - self._at_ns, cpu_ns - self._cpu_ns))
        used_ns += int((children_s - self._children_s) * 1e9)
        peak = own.ru_maxrss
        if usage.ru_maxrss > self._children_kb:
            self._children_kb = usage.ru_maxrss
            peak = max(peak, usage.ru_maxrss)
        self._children_s = children_s
        if peak > self.peak_kb + 1024 and self._can_reset_peak:
            try:
                with open("/proc/self/clear_refs", "wb", 0) as refs:
                    refs.write(b"5")
                self.peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            except OSError:
                self._can_reset_peak = False
        self._cpu_ns = cpu_ns
        self._at_ns = time.perf_counter_ns()
        return max(0, used_ns) // 1000, peak

    def mark_idle(self):
        self._cpu_ns = time.process_time_ns()
        self._at_ns = time.perf_counter_ns()


def duration(us):
    """Microseconds as the wire has them (P5): from 2^31 on, milliseconds with bit 31 set."""
    return us if us < 0x80000000 else 0x80000000 | min(us // 1000, 0x7FFFFFFF)


class Clearing:
    """What a task leaves running or lying about is gone before the next task begins, at every level of isolation on
    Linux: every process that it started, whatever session or parent that has now, and files in the folders
    that are shared by all programs of the sandbox.

    In a PID namespace everything but this process and the first belongs to the task. Outside of one this process is
    made the parent of all orphans among its descendants. What cannot be ended (it hangs in the kernel) ends this worker:
    its slot is taken by a fresh one.
    """

    GIVE_UP_S = 2.0

    def __init__(self, how, folders):
        self._folders = [folder for folder in folders if os.path.isdir(folder)]
        self._clear = self._namespace if how == "namespace" else self._descendants
        if how != "namespace":
            import ctypes

            PR_SET_CHILD_SUBREAPER = 36
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def clear(self):
        self._clear()
        for folder in self._folders:
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                try:
                    if os.path.isdir(path) and not os.path.islink(path):
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        os.unlink(path)
                except OSError:
                    pass

    def _namespace(self):
        """kill(-1) spares the caller and the first process; without a signal it only looks."""
        self._until_gone(lambda: self._signal_all(0), lambda: self._signal_all(signal.SIGKILL))

    def _descendants(self):
        self._until_gone(self._has_children, self._kill_descendants)

    def _until_gone(self, is_left, kill):
        if not is_left():
            return
        until = time.monotonic() + self.GIVE_UP_S
        while True:
            kill()
            self._reap()
            if not is_left():
                return
            if time.monotonic() > until:
                os._exit(70)
            time.sleep(0.001)

    @staticmethod
    def _signal_all(number):
        try:
            os.kill(-1, number)
            return True
        except ProcessLookupError:
            return False
        except PermissionError:
            return True

    @staticmethod
    def _has_children():
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return True
        except ChildProcessError:
            return False

    @staticmethod
    def _reap():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    @staticmethod
    def _kill_descendants():
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open("/proc/%s/stat" % name, "rb") as stat:
                        parents.setdefault(int(stat.read().rpartition(b")")[2].split()[1]), []).append(int(name))
                except (OSError, ValueError, IndexError):
                    pass
        line = [os.getpid()]
        for pid in line:
            for child in parents.get(pid, ()):
                line.append(child)
                try:
                    os.kill(child, signal.SIGKILL)
                except OSError:
                    pass


class Recycling:
    """When this worker is to be replaced by a fresh one (W6): after `tasks` tasks, or where it still holds more than
    `memory_kb` once a task is over and whatever nobody refers to was given back to the system. 0: never.

    What the worker holds is looked at after tasks that had their peak above the bound, and after every 1,024th, since
    the memory of short ones is not measured.
    """

    LOOK_EVERY = 1024

    def __init__(self, rules):
        self._tasks = rules.get("tasks") or 0
        self._memory_kb = rules.get("memoryKb") or 0
        self._ran = 0
        # Why, once it is.
        self.is_due = None

    def ran(self, peak_kb):
        self._ran += 1
        if self._ran == self._tasks:
            self.is_due = "it has run %d tasks" % self._ran
        elif self._memory_kb and (peak_kb > self._memory_kb or self._ran % self.LOOK_EVERY == 0):
            self._look()

    def _look(self):
        if resident_kb() <= self._memory_kb:
            return
        gc.collect()
        release_freed_memory()
        left_kb = resident_kb()
        if left_kb > self._memory_kb:
            self.is_due = "it holds %d MiB between tasks, more than %d" % (left_kb >> 10, self._memory_kb >> 10)


def resident_kb():
    """Memory that this process has now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", 0) as statm:
            return int(statm.read().split()[1]) * (mmap.PAGESIZE // 1024)
    except OSError:
        return 0


def release_freed_memory():
    """The C library keeps what was freed; this hands it back."""
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    except (ImportError, OSError, AttributeError):
        pass


class Runner:
    """What both runtimes share: arguments in, result out, everything around a call."""

    def __init__(self, worker):
        config = worker.config
        self.worker = worker
        self.payloads = config["payloads"]
        self.output = Output(config["dir"])
        self.around = Surroundings(config["dir"])
        if config.get("clear"):
            self.around.clearing = Clearing(config["clear"], config.get("sweep") or ())
        self.recycling = Recycling(config.get("recycle") or {})
        self.temporaries = 0

    def known(self, fn):
        """The record to use for a definition that came: the compiled one where it was known before."""
        return fn

    def run(self, task):
        """One task, whatever it does. Returns the item for the results frame."""
        around = self.around
        detail = None
        state, reason, seal = SUCCEEDED, R_NONE, NO_SEAL
        codec = task.codec & 127
        data = b""
        started = time.perf_counter_ns()
        try:
            if task.fn is None:
                raise Failure(R_FUNCTION, "FunctionUnknown", "the worker has no definition of this function")
            seal = task.seal
            if seal is not None and seal != sha256(task.key + task.args).digest() and seal != NO_SEAL:
                raise Failure(R_CORRUPT, "PayloadCorrupt", CORRUPT)
            if task.fn.secrets:
                self.worker.secrets.fetch(task)
            around.enter(task)
            raw = self._payload(task) if task.codec & REFERENCE else task.args
            codec, data = self.execute(task, codec, raw)
            if len(data) > MAX_INLINE_BYTES:
                codec, data = self._spill(codec, data)
            seal = sha256(task.key + data).digest()
        except Failure as failure:
            state, reason, detail, seal = FAILED, failure.reason, failure.detail, NO_SEAL
            detail.setdefault("worker", self.worker.label)
            codec, data = JSON, b""
        ended = time.perf_counter_ns()
        ran = ended - started
        guarded = task.fn is not None and task.fn.secrets
        # What a task with secrets wrote stays in no file, however short it was.
        written = self.output.take(max(ran, MEASURE_AFTER_NS) if guarded else ran)
        if written:
            detail = detail or {}
            for name, value in written.items():
                detail.setdefault(name, value)
        if guarded:
            detail = self.worker.secrets.masked(detail)
            self.worker.secrets.forget()
        around.leave(ran)
        if ran < MEASURE_AFTER_NS:
            # Asking for the CPU time would cost as much: a short task is taken to have computed all the time.
            cpu_us, peak_kb = ran // 1000, around.peak_kb
        else:
            cpu_us, peak_kb = around.measure(started)
        self.recycling.ran(peak_kb)
        return (
            task.key,
            codec,
            task.attempt,
            state,
            reason,
            duration(max(0, started - task.came_ns) // 1000),
            duration(ran // 1000),
            duration(cpu_us),
            peak_kb,
            data,
            detail,
            task.fence,
            seal,
        )

    def _payload(self, task):
        path = (task.opts or {}).get("argsFile")
        try:
            size = struct.unpack("<Q", task.args[32:40])[0]
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size != size:
                    raise Failure(R_PAYLOAD, "PayloadMissing", "the arguments' payload file has the wrong size")
                if size >= MIN_MAPPED_BYTES:
                    # What the function writes into its arguments stays in this process.
                    raw = memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY))
                else:
                    raw = bytearray(size)
                    view, at = memoryview(raw), 0
                    while at < size:
                        got = os.readv(fd, [view[at:]])
                        if got == 0:
                            raise Failure(R_PAYLOAD, "PayloadMissing", "the arguments' payload file is too short")
                        at += got
                if sha256(raw).digest() != task.args[:32] and PLANTED != "payload-digest-unchecked":
                    # Another try fetches it anew. In a sandbox the node manager sees to that.
                    try:
                        os.unlink(path)
                    except OSError:
                        pass
                    raise Failure(R_CORRUPT, "PayloadCorrupt", CORRUPT)
                return raw
            finally:
                os.close(fd)
        except (OSError, TypeError, struct.error) as error:
            raise Failure(R_PAYLOAD, "PayloadMissing", "the arguments' payload file is gone: %s" % error) from None

    def _spill(self, codec, data):
        """A large result goes to a payload file; the reference takes its place."""
        size = len(data)
        if size > MAX_PAYLOAD_BYTES:
            raise Failure(
                R_TOO_LARGE,
                "ResultTooLarge",
                "the result has %d bytes, at most %d. Split it, or write it to a file and return its path"
                % (size, MAX_PAYLOAD_BYTES),
            )
        self.temporaries += 1
        path = os.path.join(self.payloads, "tmp-%s-%d-%d" % (self.worker.name, os.getpid(), self.temporaries))
        digest = sha256()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                for piece in data.pieces if type(data) is Bundle else (data,):
                    view = memoryview(piece)
                    for at in range(0, len(view), PIECE_BYTES):
                        # Hashed and written while it is in the processor's cache.
                        part = view[at : at + PIECE_BYTES]
                        digest.update(part)
                        while part:
                            part = part[os.write(fd, part) :]
            finally:
                os.close(fd)
            digest = digest.digest()
            os.rename(path, os.path.join(self.payloads, digest.hex()))
        except OSError as error:
            try:
                os.unlink(path)
            except OSError:
                pass
            raise Failure(R_ENVIRONMENT, type(error).__name__, "the result cannot be stored: %s" % error) from None
        return codec | REFERENCE, digest + struct.pack("<Q", size)

    def execute(self, task, codec, raw):
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------- runtime python


class PythonRunner(Runner):
    """Functions: source text compiled once, or pickled by cloudpickle."""

    def __init__(self, worker):
        super().__init__(worker)
        self._compiled = collections.OrderedDict()

    def known(self, fn):
        old = self._compiled.get(fn.digest)
        return fn if old is None else old

    def execute(self, task, codec, raw):
        fn = task.fn
        call = fn.call
        if call is None:
            call = self._prepare(fn)
        args, kwargs = decode_arguments(codec, raw)
        try:
            try:
                value = call(*args, **kwargs)
                if type(value) is types.CoroutineType:
                    # Not with the others: it would double what they take, and few functions need it.
                    import asyncio

                    value = asyncio.run(value)
            finally:
                if task.opts is not None and not self.worker.forked:
                    self.worker.own_token.forget()
        except BaseException as error:
            if self.worker.forked:
                self._leave_child(error)
            failure = self._user_error(error, call, args, kwargs)
            if codec == PICKLE and isinstance(error, Exception):
                failure.detail["error"].update(exception_data(error))
            raise failure from None
        if self.worker.forked:
            self._leave_child(None)
        return codec, encode_result(codec, value)

    def _leave_child(self, error):
        # A process that the function forked came back from it: its life ends here, as it would in a script.
        code = 0
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        elif error is not None:
            traceback.print_exception(type(error), error, error.__traceback__)
            code = 1
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code & 255)

    def _prepare(self, fn):
        """Compiles once; a failure is remembered as well, as the same code fails the same way."""
        if fn.bad is not None:
            raise Failure(fn.bad.reason, fn.bad.detail["error"]["type"], str(fn.bad), None)
        try:
            fn.call = self._load_pickle(fn) if fn.format == "pickle" else self._load_source(fn)
        except Failure as failure:
            if failure.reason == R_FUNCTION:
                fn.bad = failure
            raise
        self._compiled[fn.digest] = fn
        if len(self._compiled) > MAX_FUNCTIONS:
            digest, _ = self._compiled.popitem(last=False)
            name = "farloom_%s" % digest.hex()[:12]
            sys.modules.pop(name, None)
            linecache.cache.pop("<%s>" % name, None)
        return fn.call

    def _load_pickle(self, fn):
        wanted = fn.env.get("python")
        have = "%d.%d" % sys.version_info[:2]
        if wanted and wanted != have:
            raise Failure(
                R_ENVIRONMENT,
                "PythonVersionMismatch",
                "the function was pickled by Python %s and this worker is Python %s, whose bytecode differs. Register "
                "the function as source, or give the endpoint an interpreter of Python %s" % (wanted, have, wanted),
            )
        try:
            import cloudpickle  # noqa: F401  (pickles by value refer to it)
        except ImportError as error:
            raise missing_module(error, "pickled functions") from None
        try:
            call = pickle.loads(fn.code)
        except ImportError as error:
            raise missing_module(error, "the pickled function") from None
        except BaseException as error:
            raise Failure(
                R_FUNCTION, type(error).__name__, "the pickled function cannot be loaded: %s" % error
            ) from None
        if not callable(call):
            raise Failure(R_FUNCTION, "FunctionInvalid", "what was pickled is a %s, no function" % type(call).__name__)
        return call

    def _load_source(self, fn):
        name = "farloom_%s" % fn.digest.hex()[:12]
        filename = "<%s>" % name
        try:
            text = fn.code.decode("utf-8")
        except UnicodeDecodeError:
            raise Failure(R_FUNCTION, "UnicodeDecodeError", "the source is not UTF-8") from None
        try:
            code = compile(text, filename, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            trace = "".join(traceback.format_exception_only(type(error), error))
            raise Failure(
                R_FUNCTION, type(error).__name__, "the source does not parse: %s" % error, trace
            ) from None
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
        module = types.ModuleType(name)
        module.__file__ = filename
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)
        except ImportError as error:
            sys.modules.pop(name, None)
            failure = missing_module(error, "the function's imports")
            failure.detail["error"]["traceback"] = self._trace(error)
            raise failure from None
        except BaseException as error:
            sys.modules.pop(name, None)
            if self.worker.forked:
                self._leave_child(error)
            # Not remembered as bad: what runs at import may depend on the moment.
            raise Failure(
                R_USER_ERROR, type(error).__name__, "the module raised as it was loaded: %s" % error, self._trace(error)
            ) from None
        call = module.__dict__.get(fn.entry)
        if not callable(call):
            names = [n for n, v in module.__dict__.items() if inspect.isfunction(v) and v.__module__ == name]
            raise Failure(
                R_FUNCTION,
                "FunctionInvalid",
                "the source has no function named %s; it has: %s" % (fn.entry, ", ".join(names[:20]) or "none"),
            )
        return call

    def _user_error(self, error, call, args, kwargs):
        if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # Raised at the call itself, not within: do the arguments fit?
            try:
                inspect.signature(call).bind(*args, **kwargs)
            except TypeError as why:
                return Failure(R_ARGUMENTS, "TypeError", "the arguments do not fit the function: %s" % why)
            except ValueError:
                pass
        if isinstance(error, SystemExit):
            message = "the function called sys.exit(%r); return instead" % (error.code,)
        else:
            try:
                message = str(error)
            except Exception:
                message = "(its message cannot be shown)"
        return Failure(R_USER_ERROR, type(error).__name__, message, self._trace(error))

    @staticmethod
    def _trace(error):
        try:
            tb = error.__traceback__
            here = __file__
            while tb is not None and tb.tb_frame.f_code.co_filename == here:
                tb = tb.tb_next
            return "".join(traceback.format_exception(type(error), error, tb))
        except Exception as broken:
            return "(no traceback: %s)" % type(broken).__name__


# ---------------------------------------------------------------------------------------------- runtime command


class CommandRunner(Runner):
    """Programs: an argv whose elements are filled from the arguments, never a shell."""

    def __init__(self, worker):
        super().__init__(worker)
        import re
        import subprocess

        self._subprocess = subprocess
        self.context = TaskContext(worker)
        # `{{` and `}}` stand for the braces themselves.
        self._place = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*|[0-9]+)\}")

    def _fill(self, template, args, kwargs):
        def replace(match):
            whole = match.group(0)
            if whole == "{{":
                return "{"
            if whole == "}}":
                return "}"
            name = match.group(1)
            try:
                value = args[int(name)] if name.isdigit() else kwargs[name]
            except (IndexError, KeyError):
                raise Failure(
                    R_ARGUMENTS, "ArgumentsInvalid", "the command wants an argument {%s}, which was not given" % name
                ) from None
            if isinstance(value, str):
                text = value
            elif isinstance(value, bool):
                text = "true" if value else "false"
            elif isinstance(value, (int, float)):
                text = repr(value)
            else:
                text = _encode_json(value)
            if "\0" in text:
                raise Failure(R_ARGUMENTS, "ArgumentsInvalid", "argument {%s} holds a NUL character" % name)
            return text

        return self._place.sub(replace, template)

    def execute(self, task, codec, raw):
        spec = task.fn.command or {}
        args, kwargs = decode_arguments(codec, raw)
        argv = []
        for part in spec["argv"]:
            # Several words, or none where the call has no nodes.
            if part == "{mpi_prefix}" and "mpi_prefix" not in kwargs:
                argv.extend(self.context.mpi_prefix)
            else:
                argv.append(self._fill(part, args, kwargs))
        stdin = spec.get("stdin")
        stdin = self._fill(stdin, args, kwargs).encode("utf-8") if stdin else b""
        exit_code, signal_name = self._spawn(task, argv, stdin)
        written = self.worker.secrets.masked(self.output.take(MEASURE_AFTER_NS)) or {}
        ok_codes = spec.get("okExitCodes") or [0]
        if exit_code not in ok_codes:
            how = "was ended by %s" % signal_name if signal_name else "ended with exit code %d" % exit_code
            last = written.get("stderr", "").strip().splitlines()
            detail = dict(written)
            if signal_name:
                detail["signal"] = signal_name
            detail["exitCode"] = exit_code
            raise Failure(
                R_EXIT, "NonzeroExit", "%s %s%s" % (argv[0], how, ": " + last[-1] if last else ""), None, **detail
            )
        result = {
            "exitCode": exit_code,
            "stdout": written.get("stdout", ""),
            "stderr": written.get("stderr", ""),
            "files": {},
        }
        for template in spec.get("outputs") or []:
            path = self._fill(template, args, kwargs)
            result["files"][path] = self._read_output(path)
        if codec == PICKLE:
            codec = JSON
        return codec, encode_result(codec, result)

    def _spawn(self, task, argv, stdin):
        """Runs the program in this worker's process group, so that whatever stops the worker stops it too."""
        subprocess = self._subprocess
        source = subprocess.DEVNULL
        spool = None
        if stdin:
            # A file, not a pipe: a program that does not read it cannot block anyone.
            spool = os.open(
                os.path.join(self.worker.config["dir"], "stdin"), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            at = 0
            while at < len(stdin):
                at += os.write(spool, stdin[at:])
            os.lseek(spool, 0, 0)
            source = spool
        try:
            context = self.context
            env = dict(os.environ, FARLOOM_TASK_ID=context.id)
            env["FARLOOM_ATTEMPT"], env["FARLOOM_FENCE"] = str(task.attempt), str(task.fence)
            # A program has no other way to ask for them.
            env.update(self.worker.secrets.values or {})
            child = subprocess.Popen(argv, stdin=source, close_fds=True, restore_signals=True, env=env)
        except (OSError, ValueError) as error:
            raise Failure(
                R_ENVIRONMENT,
                type(error).__name__,
                "the program %s cannot be started: %s. Install it on the endpoint, or give its full path" % (argv[0], error),
            ) from None
        finally:
            if spool is not None:
                os.close(spool)
        code = child.wait()
        if code >= 0:
            return code, None
        try:
            return 128 - code, signal.Signals(-code).name
        except ValueError:
            return 128 - code, "signal %d" % -code

    @staticmethod
    def _read_output(path):
        """A file's contents, from the working directory and never from outside of it."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or not path:
            raise Failure(R_FUNCTION, "OutputInvalid", "the output %s does not lie in the working directory" % path)
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for i, part in enumerate(parts):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                if i < len(parts) - 1:
                    flags |= os.O_DIRECTORY
                try:
                    deeper = os.open(part, flags, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        why = "is reached through a symbolic link or is no folder, which is not followed"
                    else:
                        why = "cannot be read: %s" % error.strerror
                    raise Failure(R_RESULT, "OutputMissing", "the output %s %s" % (path, why)) from None
                os.close(fd)
                fd = deeper
            import stat as stat_module

            info = os.fstat(fd)
            if not stat_module.S_ISREG(info.st_mode):
                raise Failure(R_RESULT, "OutputMissing", "the output %s is no plain file" % path)
            if info.st_size > MAX_PAYLOAD_BYTES // 2:
                raise Failure(R_TOO_LARGE, "ResultTooLarge", "the output %s has %d bytes" % (path, info.st_size))
            pieces = []
            while True:
                piece = os.read(fd, 1 << 20)
                if not piece:
                    break
                pieces.append(piece)
        finally:
            os.close(fd)
        raw = b"".join(pieces)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            import base64

            return {"base64": base64.b64encode(raw).decode("ascii")}


# ---------------------------------------------------------------------------------------------- start


# ---------------------------------------------------------------------------------------------- for tests alone


def arm_crash_points(worker, runner, order):
    """The labels `worker.…` of @farloom/protocol/testing, under the same rules. Unarmed, nothing of this runs."""
    seen = ["", 0]

    def crash_point(label):
        text = order
        if order.startswith("@"):
            try:
                with open(order[1:]) as file:
                    text = file.read()
            except OSError:
                return
        if text != seen[0]:
            seen[:] = [text, 0]
        wanted, _, rest = text.strip().partition(":")
        if label != wanted:
            return
        seen[1] += 1
        if str(seen[1]) != rest.split(":")[0]:
            return
        if order.startswith("@"):
            try:
                os.unlink(order[1:])
            except OSError:
                return  # Another process carries the order out.
        os.kill(os.getpid(), signal.SIGKILL)

    results, begin, add, run, send = worker.results, worker.results.begin, worker.results.add, runner.run, worker._send_on

    def begin_and_crash(key):
        begin(key)
        crash_point("worker.task.begun")

    def run_and_crash(task):
        item = run(task)
        crash_point("worker.task.ran")
        return item

    def add_and_crash(item):
        stored = add(item)
        crash_point("worker.result.stored")
        return stored

    def send_and_crash(sock, data):
        send(sock, data)
        if worker.unmarked and worker.unmarked[-1][2] is data:
            crash_point("worker.result.sent")

    results.begin, results.add, runner.run, worker._send_on = begin_and_crash, add_and_crash, run_and_crash, send_and_crash


def main():
    # It holds tokens: none of them is to end in a core dump. A function may raise the soft limit again.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    config = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, closefd=False)
    # A function's imports must not find this worker's own folder.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    worker = Worker(config)
    expose_context(worker)
    runner = CommandRunner(worker) if config["runtime"] == "command" else PythonRunner(worker)
    # A crash of the interpreter writes its Python traceback to the task's standard error.
    faulthandler.enable(2, all_threads=False)
    if os.environ.get("FARLOOM_CRASH_AT"):
        arm_crash_points(worker, runner, os.environ["FARLOOM_CRASH_AT"])
    worker.run(runner)
    os._exit(0)


if __name__ == "__main__":
    main()
