"""Runs one command and answers for everything it starts: `reaper.py REPORT COMMAND [ARGUMENT ...]`.

A program that leaves a process behind is not finished, even where that process is in a session of its own, has
another user or has lost its parent. On Linux this process adopts every orphan below it. So:

1. When COMMAND ends, what is left of its tree gets GRACE_S to end by itself. The rest is written to REPORT, one
   line each (`PID COMMAND LINE`), and killed. An empty REPORT means that nothing was left.
2. SIGTERM and SIGINT are passed on to COMMAND alone, once; where it has not ended STOP_S later, it is killed. On
   Linux COMMAND gets SIGTERM also when this process dies, or its parent does.
3. The exit status is that of COMMAND (128 + n where signal n ended it).

Elsewhere there is no such adoption: COMMAND runs, and REPORT stays empty.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 3.0
STOP_S = 20
LOOK_S = 0.05


def descendants():
    """Every live process below this one, by the parent ids that /proc shows now."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                state, parent = stat.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(parent), []).append((int(entry), state))
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += [pid for pid, state in below if state != "Z"]
        todo += [pid for pid, _ in below]
    return found


def command_line(pid):
    """How `ps` would show it."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def bury():
    """Takes the exit status of every orphan that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait_for(pid):
    """Its status once it has ended. Orphans that end before it are buried, as by any init: nobody else would."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def left_after_grace():
    deadline = time.monotonic() + GRACE_S
    while True:
        bury()
        left = descendants()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_S)


def kill_all():
    """A process may fork while its tree is read: again, until none is left."""
    for _ in range(200):
        alive = descendants()
        if not alive:
            return
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(LOOK_S)
        bury()


def unblock():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])


def become_child(libc):
    if libc:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    unblock()


def main():
    report, command = sys.argv[1], sys.argv[2:]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # Held back until there is somebody to pass them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    # A terminal's Ctrl-C reaches whole process groups: in one of its own, COMMAND hears it from here, and once.
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: become_child(libc))
    passed_on = []

    def pass_on(number, _frame):
        if not passed_on:
            passed_on.append(number)
            os.kill(child.pid, number)
            signal.alarm(STOP_S)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child.pid, signal.SIGKILL))
    unblock()
    status = child.returncode = wait_for(child.pid)
    signal.alarm(0)
    left = left_after_grace() if libc else []
    with open(report, "w", encoding="utf-8") as file:
        file.writelines(f"{pid} {command_line(pid)}\n" for pid in left)
    if left:
        kill_all()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
