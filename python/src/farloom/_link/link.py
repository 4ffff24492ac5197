"""The link: one thread that keeps a session with the service open while anybody waits for anything.

    idle ─► connecting ─► open ─► (cut) waiting ─► connecting …        woken by the first task

A single call costs no hand-off on its way out: where little is under way the submitting thread itself builds and
sends the frame. Where much is, it only wakes the link's thread, which sends everything that gathered meanwhile.
"""

import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Iterable

from .._config import Config
from .._errors import FarloomError
from .._frames import Frame, FrameInvalid, decode, encode
from .._limits import PROTOCOL_VERSION
from .._rest import reconnect_s
from .connection import CONNECT_TIMEOUT_S, Connection, LinkEnded
from .custody import Custody
from .inbound import take_frame
from .settle import Fetcher
from .stream import Lane
from .task import CANCEL_FORCE, CANCEL_QUEUED, Task

log = logging.getLogger("farloom")

# Up to this many unresolved tasks the submitting thread sends by itself …
_DIRECT_TASKS = 8
# … and whatever their number where nothing was sent for so long.
_DIRECT_AFTER_S = 0.001
# A connection that lived this long, or moved a mark, counts as good: the next wait is a short one again.
_PROVEN_S = 10.0
_FOREVER_S = 3600.0


class Link:
    def __init__(self, config: Config, software: str, fetcher: Fetcher) -> None:
        self._config = config
        self._software = software
        self.fetcher = fetcher
        self.custody = Custody()
        self._connection: Connection | None = None
        self._is_open = False
        self._ever_open = False
        self._closed: str | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._is_woken = False
        self._flushed_at = 0.0
        self.timers: list[tuple[float, int, list[Task]]] = []
        self.numbers = itertools.count()
        self._failing_since: float | None = None
        self._tries = 0
        self.has_moved = False

    @property
    def is_connected(self) -> bool:
        return self._is_open

    def lane(self, endpoint: bytes, group: bytes) -> Lane:
        return self.custody.lane(endpoint, group)

    # ── from any thread ────────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """Raises where nothing can be submitted; waits while as much waits as may."""
        self.check_open()
        if self.custody.is_full and threading.current_thread() is not self._thread:
            self.kick()
            self.custody.wait_for_room(lambda: self._closed is not None)

    def check_open(self) -> None:
        """Raises where nothing can be submitted."""
        if self._closed is not None:
            raise RuntimeError(self._closed)

    def submit(self, task: Task) -> None:
        """Takes a task and sends it, or has it sent."""
        self.custody.add(task)
        self.kick()

    def kick(self) -> None:
        """What was added is sent, now or by the link's thread."""
        if self._thread is None:
            self._start()
        connection = self._connection
        if self._is_open and connection is not None:
            custody = self.custody
            few = len(custody.open) <= _DIRECT_TASKS
            if (few or time.monotonic() - self._flushed_at > _DIRECT_AFTER_S) and custody.lock.acquire(blocking=False):
                try:
                    if connection is self._connection and self._is_open:
                        custody.flush(connection)
                        self._flushed_at = time.monotonic()
                        if connection.wants_write:
                            self._wake()
                        return
                finally:
                    custody.lock.release()
        self._wake()

    def adopt(self, tasks: Iterable[Task]) -> None:
        self.check()
        self.custody.adopt(tasks)
        self.kick()

    def cancel(self, tasks: Iterable[Task], *, force: bool) -> None:
        """Ends here what was never sent; asks the service for the rest. Does not wait."""
        for task in self.custody.ask_cancel(tasks, CANCEL_FORCE if force else CANCEL_QUEUED):
            task.sink.on_cancelled(task)
        self.custody.tell_room()
        self.kick()

    def is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def close(self, why: str = "This client is closed.") -> None:
        """Ends the link; what has not ended fails with CLIENT_CLOSED. Idempotent."""
        if self._closed is not None:
            return
        self._closed = why
        thread = self._thread
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)
        if thread is None:
            self.fail_all(FarloomError("CLIENT_CLOSED"))

    def forget(self, why: str) -> None:
        """In a forked child: the connection and the thread are the parent's."""
        self._closed = why
        self._is_open = False
        self._thread = None
        if self._connection is not None:
            self._connection.forget()
        self._wake_in.close()
        self._wake_out.close()

    # ── the thread ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and self._closed is None:
                self._thread = threading.Thread(target=self._run, name="farloom-link", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        if self._is_woken:
            return
        self._is_woken = True
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def _sleep(self, seconds: float) -> None:
        """Until woken, or for so long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_in, selectors.EVENT_READ)
            if selector.select(seconds):
                self._hear_wake()

    def _hear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(64)
        # Before the queue is looked at: whoever adds after that look wakes again.
        self._is_woken = False

    def _run(self) -> None:
        try:
            while self._closed is None:
                if not self.custody.open and not self.custody.incoming:
                    self._sleep(_FOREVER_S)
                    continue
                self._after(self._session())
        except Exception as error:
            log.exception("the link ended by an error of its own")
            self._closed = f"the link of this client ended by an error of its own: {error!r}"
        self.fail_all(FarloomError("CLIENT_CLOSED"))
        with contextlib.suppress(OSError):
            self._wake_in.close()
            self._wake_out.close()

    def _after(self, ended: LinkEnded) -> None:
        """A session is over: gives up, or waits before the next one."""
        if self._closed is not None:
            return
        if ended.error.code == "TOKEN_EXPIRED":
            self._config.expired()
        if ended.is_fatal:
            self.fail_all(ended.error)
            return
        if not self.custody.open:
            self._failing_since = None
            return
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        config = self._config
        limit = config.reconnect_for_s if self._ever_open else config.connect_for_s
        if now - self._failing_since > limit:
            self._failing_since = None
            self.fail_all(ended.error)
            return
        until = now + max(ended.error.retry_after_s or 0.0, reconnect_s(self._tries))
        self._tries += 1
        while self._closed is None and (left := until - time.monotonic()) > 0:
            self._sleep(left)

    def _session(self) -> LinkEnded:
        """One connection, from the dial to its end."""
        try:
            connection = Connection(self._config.url, self._config.bearer(), self._software)
        except FarloomError as error:
            # The credential is a running task's, which may be over.
            return LinkEnded(error)
        opened_at = time.monotonic()
        self.has_moved = False
        try:
            connection.open()
            self._connection = connection
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_in, selectors.EVENT_READ)
                selector.register(connection.sock, selectors.EVENT_READ)
                self._talk(connection, selector)
            return LinkEnded(FarloomError("CLIENT_CLOSED"))
        except LinkEnded as ended:
            return ended
        except FrameInvalid as invalid:
            connection.send(encode({"t": "bye", "code": "FRAME_INVALID", "message": str(invalid)}))
            return LinkEnded(FarloomError("FRAME_INVALID", detail=invalid))
        finally:
            with self.custody.lock:
                self._is_open = False
                self._connection = None
                self.custody.restart()
            connection.close()
            if self.has_moved or time.monotonic() - opened_at > _PROVEN_S:
                self._tries = 0

    def _talk(self, connection: Connection, selector: selectors.BaseSelector) -> None:
        hello: Frame = {"t": "hello", "role": "client", "versions": [PROTOCOL_VERSION]}
        hello |= {"caps": ["ref", "cancel-running", "progress"], "software": self._software}
        connection.send(encode(hello))
        heartbeat_s = dead_s = CONNECT_TIMEOUT_S
        heard = time.monotonic()
        ping_at = heard + heartbeat_s
        sock_events = selectors.EVENT_READ
        pings = 0
        while self._closed is None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_write else 0)
            if wanted != sock_events:
                selector.modify(connection.sock, wanted)
                sock_events = wanted
            due = min(ping_at, self.timers[0][0]) if self.timers else ping_at
            for key, mask in selector.select(max(0.0, due - time.monotonic())):
                if key.fileobj is self._wake_in:
                    self._hear_wake()
                    continue
                if mask & selectors.EVENT_WRITE:
                    connection.pump()
                if mask & selectors.EVENT_READ:
                    heard = time.monotonic()
                    for message in connection.receive():
                        frame = decode(message)
                        if frame["t"] == "welcome" and not self._is_open:
                            heartbeat_s = max(1, int(frame["heartbeatMs"])) / 1000
                            dead_s = max(1, int(frame["deadAfterMs"])) / 1000
                            ping_at = heard + heartbeat_s
                            self._welcome(connection)
                        else:
                            take_frame(self, connection, frame)
            now = time.monotonic()
            if now >= ping_at:
                if now - heard > dead_s or not self._is_open:
                    raise LinkEnded(FarloomError("LINK_SILENT", seconds=round(dead_s)))
                pings += 1
                ping_at = now + heartbeat_s
                connection.send(encode({"t": "ping", "n": pings}))
            self._retry_due(now)
            if self._is_open:
                with self.custody.lock:
                    self.custody.flush(connection)
                    self._flushed_at = time.monotonic()
        with self.custody.lock:
            if self._is_open:
                self.custody.flush(connection)
        connection.send(encode({"t": "bye", "code": "CLIENT_CLOSED", "message": "the client is done"}))

    def _welcome(self, connection: Connection) -> None:
        self._failing_since = None
        self._ever_open = True
        with self.custody.lock:
            self.custody.resume(connection)
            self._is_open = True

    def _retry_due(self, now: float) -> None:
        while self.timers and self.timers[0][0] <= now:
            _, _, tasks = heapq.heappop(self.timers)
            with self.custody.lock:
                self.custody.retry(tasks)

    def fail_all(self, error: FarloomError) -> None:
        """Everything ends. Listeners may submit anew meanwhile: the queues are empty before the first one hears."""
        with self.custody.lock:
            tasks = self.custody.take_all()
            self.timers.clear()
        for task in tasks:
            self.custody.settled(task)
            task.sink.on_error(task, error)
        self.custody.tell_room()
