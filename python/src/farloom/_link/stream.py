"""Credit, lanes and custody of one direction (PROTOCOL.md section 3). Pure counting: the link holds its lock around
every call.

    Lane     tasks of one endpoint and one group that wait: a frame carries one of each
    Lanes    all of them, taking turns, a frame each
    Outbox   what was sent, until the service's durable mark covers it (P11)
    Credit   how much may still be sent in this session (P9)
"""

from collections import deque
from collections.abc import Iterable

from .._limits import MAX_BATCH_ITEMS, MAX_FRAME_ELEMENTS, TARGET_BATCH_BYTES
from .task import SENT, SETTLED, WAITING, Task

# Of the elements that a frame may have (P2), what options may take; the rest is for the frame's own.
_MAX_OPTION_ELEMENTS = MAX_FRAME_ELEMENTS - 2 * MAX_BATCH_ITEMS


class Lane:
    __slots__ = ("endpoint", "group", "is_ready", "queue")

    def __init__(self, endpoint: bytes, group: bytes) -> None:
        self.endpoint = endpoint
        self.group = group
        self.queue: deque[Task] = deque()
        self.is_ready = False


class Cut:
    """What one frame will carry."""

    __slots__ = ("again", "lane", "size_bytes", "tasks")

    def __init__(self, lane: Lane, tasks: list[Task], size_bytes: int, again: bool) -> None:
        self.lane = lane
        self.tasks = tasks
        self.size_bytes = size_bytes
        # These may have been submitted before (P11).
        self.again = again


class Lanes:
    def __init__(self) -> None:
        self._ready: deque[Lane] = deque()
        # Tasks that were found settled in their place, and so never sent from it.
        self.skipped = 0

    def push(self, task: Task) -> None:
        lane = task.lane
        lane.queue.append(task)
        if not lane.is_ready:
            lane.is_ready = True
            self._ready.append(lane)

    def push_front(self, tasks: Iterable[Task]) -> None:
        """Puts tasks that had been sent in front again, in order."""
        by_lane: dict[int, tuple[Lane, list[Task]]] = {}
        for task in tasks:
            by_lane.setdefault(id(task.lane), (task.lane, []))[1].append(task)
        for lane, left in by_lane.values():
            lane.queue.extendleft(reversed(left))
            if not lane.is_ready:
                lane.is_ready = True
                self._ready.append(lane)

    def next(self, room_tasks: int, room_bytes: int) -> Cut | None:
        """The next frame's worth within the room that is left. One task may overdraw the bytes (P9)."""
        ready = self._ready
        while ready and room_tasks > 0 and room_bytes > 0:
            lane = ready.popleft()
            cut = self._cut(lane, min(room_tasks, MAX_BATCH_ITEMS), min(room_bytes, TARGET_BATCH_BYTES))
            if lane.queue:
                ready.append(lane)
            else:
                lane.is_ready = False
            if cut is not None:
                return cut
        return None

    def _cut(self, lane: Lane, most: int, most_bytes: int) -> Cut | None:
        queue = lane.queue
        tasks: list[Task] = []
        size = elements = 0
        again = False
        while queue and len(tasks) < most and size < most_bytes:
            task = queue[0]
            if task.phase != WAITING:
                # It ended here meanwhile.
                queue.popleft()
                self.skipped += 1
                continue
            if not tasks:
                # What was sent before travels apart from what was not: `again` is said of a whole frame (P11).
                again = task.sends > 0
            elif (task.sends > 0) is not again:
                break
            if task.options is not None:
                elements += 2 + 2 * len(task.options) + 2 * len(task.options.get("env") or ())
                if elements > _MAX_OPTION_ELEMENTS and tasks:
                    break
            queue.popleft()
            task.phase = SENT
            task.sends += 1
            size += len(task.data)
            tasks.append(task)
        return Cut(lane, tasks, size, again) if tasks else None

    def clear(self) -> None:
        for lane in self._ready:
            lane.queue.clear()
            lane.is_ready = False
        self._ready.clear()


class Outbox:
    """Sent frames, oldest first; positions count from 1 in each session (P8)."""

    def __init__(self) -> None:
        # (position of the first task, the tasks; None where one was refused)
        self._frames: deque[tuple[int, list[Task | None]]] = deque()
        self.sent = 0
        self.accepted = 0
        self.durable = 0

    def push(self, tasks: list[Task]) -> None:
        self._frames.append((self.sent + 1, list(tasks)))
        self.sent += len(tasks)

    def mark(self, accepted: int, durable: int) -> list[Task] | str:
        """The tasks that the mark covers, in order; or why it is none."""
        if durable > accepted or accepted > self.sent:
            return f"mark {accepted}/{durable} is beyond {self.sent} sent"
        if accepted < self.accepted or durable < self.durable:
            return f"mark {accepted}/{durable} goes back from {self.accepted}/{self.durable}"
        self.accepted, self.durable = accepted, durable
        covered: list[Task] = []
        frames = self._frames
        while frames:
            first, tasks = frames[0]
            n = min(len(tasks), durable - first + 1)
            if n <= 0:
                break
            frames.popleft()
            if n < len(tasks):
                frames.appendleft((first + n, tasks[n:]))
                tasks = tasks[:n]
            covered += [task for task in tasks if task is not None]
        return covered

    def refuse(self, position: int, n: int) -> list[Task]:
        """Takes out the tasks at these positions: they were not taken (P13)."""
        out: list[Task] = []
        for first, tasks in self._frames:
            low, high = max(position, first), min(position + n, first + len(tasks))
            for i in range(low - first, high - first):
                task = tasks[i]
                if task is not None:
                    tasks[i] = None
                    out.append(task)
        return out

    def restart(self) -> list[Task]:
        """Everything still in custody, for the next session, which begins now."""
        left = [task for _, tasks in self._frames for task in tasks if task is not None]
        self._frames.clear()
        self.sent = self.accepted = self.durable = 0
        return [task for task in left if task.phase != SETTLED]


class Credit:
    __slots__ = ("_bytes", "_tasks", "_used_bytes", "_used_tasks")

    def __init__(self) -> None:
        self._tasks = self._bytes = self._used_tasks = self._used_bytes = 0

    def grant(self, tasks: int, size_bytes: int) -> None:
        """Applies a credit frame; it never shrinks."""
        self._tasks = max(self._tasks, tasks)
        self._bytes = max(self._bytes, size_bytes)

    @property
    def room_tasks(self) -> int:
        return self._tasks - self._used_tasks

    @property
    def room_bytes(self) -> int:
        return self._bytes - self._used_bytes

    def use(self, tasks: int, size_bytes: int) -> None:
        self._used_tasks += tasks
        self._used_bytes += size_bytes
