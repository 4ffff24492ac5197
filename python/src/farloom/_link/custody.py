"""What the link holds, and what it says next: custody, credit, marks, resume (PROTOCOL.md sections 3 and 4).

  L1  Nothing is sent beyond credit (P9), and nothing more while the socket holds PAUSE_BUFFERED_BYTES.
  L2  A task stays in custody until a durable mark covers the place where it was last sent (P11).
  L3  In a new session: `watch` for what is durable and unresolved (P16), then what was not durable, same ids.
  L4  A task sent in more than one session is watched by id once it is durable: its end may lie in the past.
  L5  A task settles once: whoever takes it out of `open` settles it.
  L6  Submitting takes no lock: `open` and `incoming` are a dict and a deque, whose single operations are atomic.

Bounds: MAX_UNACKNOWLEDGED_* of _limits.py; what waits for room waits in `submit`.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from .._frames import Frame, build_tasks, encode
from .._limits import (
    COUNTED_BYTES,
    MAX_BATCH_ITEMS,
    MAX_UNACKNOWLEDGED_BYTES,
    MAX_UNACKNOWLEDGED_TASKS,
    PAUSE_BUFFERED_BYTES,
    WATCH_IDS,
)
from .connection import Connection
from .stream import Credit, Lane, Lanes, Outbox
from .task import CANCEL_FORCE, DELAYED, DURABLE, SENT, SETTLED, WAITING, Task


class Custody:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Everything that is with the link and has not ended.
        self.open: dict[bytes, Task] = {}
        self.incoming: deque[Task] = deque()
        self._lanes = Lanes()
        self._lane_of: dict[tuple[bytes, bytes], Lane] = {}
        self._outbox = Outbox()
        self._room = threading.Condition(threading.Lock())
        self._room_waiters = 0
        self.unacknowledged = 0
        self._counted_bytes = 0
        # Of the session:
        self._credit = Credit()
        self._watched: set[bytes] = set()
        self._cancels: dict[bytes, Task] = {}
        self._rewatch: list[Task] = []
        self.received = 0
        self._marked = 0

    @property
    def is_drained(self) -> bool:
        """Whether everything submitted is durable or settled."""
        return not self.incoming and self.unacknowledged == 0

    def lane(self, endpoint: bytes, group: bytes) -> Lane:
        with self.lock:
            lane = self._lane_of.get((endpoint, group))
            if lane is None:
                if len(self._lane_of) > 4096:
                    # Groups come and go; whoever still holds a lane keeps using it.
                    self._lane_of.clear()
                lane = self._lane_of[endpoint, group] = Lane(endpoint, group)
            return lane

    # ── submitting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, task: Task) -> None:
        """Takes a task into custody (L6)."""
        task.phase = WAITING
        self.open[task.key] = task
        self.incoming.append(task)

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Tasks that were submitted elsewhere, or earlier: durable, and to be watched by id."""
        with self.lock:
            for task in tasks:
                task.phase = DURABLE
                self.open[task.key] = task
                self._rewatch.append(task)

    @property
    def is_full(self) -> bool:
        return (
            self.unacknowledged + len(self.incoming) >= MAX_UNACKNOWLEDGED_TASKS
            or self._counted_bytes >= MAX_UNACKNOWLEDGED_BYTES
        )

    def wait_for_room(self, is_closed: Callable[[], bool]) -> None:
        with self._room:
            self._room_waiters += 1
            try:
                while self.is_full and not is_closed():
                    # The time limit is for a link that closes without anything becoming durable.
                    self._room.wait(1.0)
            finally:
                self._room_waiters -= 1

    def count(self, task: Task, size_bytes: int) -> None:
        """Argument bytes worth counting."""
        if size_bytes > COUNTED_BYTES:
            task.counted = size_bytes
            with self._room:
                self._counted_bytes += size_bytes

    def uncount(self, task: Task) -> None:
        if task.counted:
            with self._room:
                self._counted_bytes -= task.counted
                task.counted = 0

    def tell_room(self) -> None:
        if self._room_waiters:
            with self._room:
                self._room.notify_all()

    def settled(self, task: Task) -> None:
        """Out of `open` by its end, or a cancel: under no lock."""
        if task.phase != DURABLE:
            self._release((task,))
        task.phase = SETTLED
        task.data = b""

    def _release(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.counted:
                self.uncount(task)

    # ── sending; all under the lock ────────────────────────────────────────────────────────────────────────────────

    def flush(self, connection: Connection) -> None:
        """Says everything that may be said now."""
        self.drain()
        if self._rewatch:
            tasks, self._rewatch = self._rewatch, []
            self._watch(connection, [task for task in tasks if task.phase != SETTLED])
        credit = self._credit
        while connection.buffered < PAUSE_BUFFERED_BYTES:
            cut = self._lanes.next(credit.room_tasks, credit.room_bytes)
            if self._lanes.skipped:
                self.unacknowledged = max(0, self.unacknowledged - self._lanes.skipped)
                self._lanes.skipped = 0
            if cut is None:
                break
            lane = cut.lane
            if lane.group not in self._watched:
                self._watched.add(lane.group)
                connection.send(encode({"t": "watch", "group": lane.group}))
            self._outbox.push(cut.tasks)
            credit.use(len(cut.tasks), cut.size_bytes)
            connection.send(encode(build_tasks(cut.tasks, lane.endpoint, lane.group, cut.again)))
        if self._cancels:
            self._send_cancels(connection)
        if self.received > self._marked:
            self._marked = self.received
            connection.send(encode({"t": "mark", "accepted": self.received, "durable": self.received}))

    def drain(self) -> None:
        """What was submitted since goes into its lane."""
        incoming, push = self.incoming, self._lanes.push
        n = 0
        while incoming:
            push(incoming.popleft())
            n += 1
        self.unacknowledged += n

    def _send_cancels(self, connection: Connection) -> None:
        wanted = [task for key, task in self._cancels.items() if key in self.open]
        self._cancels = {}
        for force in (False, True):
            keys = [t.key for t in wanted if (t.cancel_asked == CANCEL_FORCE) is force]
            for at in range(0, len(keys), MAX_BATCH_ITEMS):
                frame: Frame = {"t": "cancel", "ids": b"".join(keys[at : at + MAX_BATCH_ITEMS])}
                if not force:
                    frame["why"] = "unbegun"
                connection.send(encode(frame))

    def _watch(self, connection: Connection, tasks: Iterable[Task]) -> None:
        by_group: dict[bytes, list[bytes]] = {}
        for task in tasks:
            by_group.setdefault(task.lane.group, []).append(task.key)
        for group, keys in by_group.items():
            self._watched.add(group)
            for at in range(0, len(keys), WATCH_IDS):
                ids = b"".join(keys[at : at + WATCH_IDS])
                connection.send(encode({"t": "watch", "group": group, "ids": ids}))

    def ask_cancel(self, tasks: Iterable[Task], level: int) -> list[Task]:
        """Takes out what was never sent, which its caller settles; the rest is asked of the service."""
        ended: list[Task] = []
        with self.lock:
            for task in tasks:
                if task.phase == SETTLED or task.key not in self.open:
                    continue
                task.cancel_asked = max(task.cancel_asked, level)
                if task.sends == 0 and task.phase in (WAITING, DELAYED):
                    if self.open.pop(task.key, None) is None:
                        continue
                    # Its place in the lane is skipped; it counts until it is found there.
                    if task.phase == DELAYED:
                        self.unacknowledged -= 1
                    self.settled(task)
                    ended.append(task)
                else:
                    self._cancels[task.key] = task
        return ended

    # ── sessions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def resume(self, connection: Connection) -> None:
        """L3: names what it waits for; what was not durable waits in its lane again."""
        self._rewatch = []
        durable = [task for task in list(self.open.values()) if task.phase == DURABLE]
        self._watch(connection, durable)
        for task in durable:
            if task.cancel_asked:
                self._cancels[task.key] = task

    def restart(self) -> None:
        """The session is over: what was sent and not durable waits again, in front; positions begin anew (P8)."""
        again = [task for task in self._outbox.restart() if task.phase == SENT]
        for task in again:
            task.phase = WAITING
        self._lanes.push_front(again)
        self.unacknowledged = self._count_waiting()
        self._credit = Credit()
        self._watched.clear()
        self._cancels = {}
        self.received = self._marked = 0

    def _count_waiting(self) -> int:
        waiting = {id(task.lane): task.lane for task in list(self.open.values())}
        delayed = sum(task.phase == DELAYED for task in list(self.open.values()))
        return sum(len(lane.queue) for lane in waiting.values()) + delayed

    def grant(self, tasks: int, size_bytes: int) -> None:
        self._credit.grant(tasks, size_bytes)

    def mark(self, accepted: int, durable: int) -> str | None:
        """Applies the service's mark; says what is wrong with it, if anything."""
        covered = self._outbox.mark(accepted, durable)
        if isinstance(covered, str):
            return covered
        for task in covered:
            if task.phase != SENT:
                continue
            task.phase = DURABLE
            if task.counted:
                self.uncount(task)
            task.data = b""
            if task.sends > 1:
                self._rewatch.append(task)
            if task.cancel_asked:
                self._cancels[task.key] = task
        self.unacknowledged = max(0, self.unacknowledged - len(covered))
        return None

    def refuse(self, position: int, n: int, *, for_good: bool) -> list[Task]:
        """The tasks at these positions were not taken (P13)."""
        tasks = [task for task in self._outbox.refuse(position, n) if task.phase == SENT]
        if for_good:
            tasks = [task for task in tasks if self.open.pop(task.key, None) is not None]
            self.unacknowledged = max(0, self.unacknowledged - len(tasks))
        else:
            # Not taken, so the same id is free to be submitted again.
            for task in tasks:
                task.phase = DELAYED
        return tasks

    def retry(self, tasks: Iterable[Task]) -> None:
        """The wait after a refusal is over."""
        again = [task for task in tasks if task.phase == DELAYED]
        for task in again:
            task.phase = WAITING
        self._lanes.push_front(again)

    def take_all(self) -> list[Task]:
        """Everything ends; whoever asks settles it."""
        self.drain()
        tasks = list(self.open.values())
        self.open.clear()
        self._outbox.restart()
        self._lanes.clear()
        self._cancels = {}
        self._rewatch = []
        self.unacknowledged = 0
        return tasks
