"""Runs one command, and leaves nothing of it behind: `contain.py COMMAND [ARGUMENT ...]`.

Some peers start detached daemons, which a signal to the process group never reaches. On Linux this
process makes itself the reaper of every orphan below it, so all of them stay in its tree, and it kills the whole
tree when the command ends, when it is told to stop, or when its own parent dies. Elsewhere the
caller's signal to the process group has to do.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def descendants():
    """Every process below this one, by the parent ids that /proc shows now."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_tree():
    for _ in range(200):  # a process may fork while its tree is read: again, until none is left
        alive = descendants()
        if not alive:
            return
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue
        time.sleep(0.01)


def stop(*_):
    raise KeyboardInterrupt


def main():
    on_linux = sys.platform == "linux"
    if on_linux:
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, stop)
    try:
        status = subprocess.Popen(sys.argv[1:]).wait()
    except KeyboardInterrupt:
        status = 143
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if on_linux:
            kill_tree()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
