"""What every kill test of a Python peer shares: the task and its evidence, whom to kill and when, and the report.

A task appends `task start pid` and `task end pid` to a file, each with fsync, so that what ran is known from the tasks
themselves and not from the peer. TASKS of them are submitted, and the part in question is killed with SIGKILL once
KILL_AFTER have started. README.md says what is counted. farloom_kill.mjs does the same for Farloom; the two stay alike.
"""

import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time

TASKS = 300
WORK_SECONDS = 0.02
KILL_AFTER = 100
WORKERS = 2
# From the start of a program until it reports what it has; bench-kills.mjs ends it some seconds later.
DEADLINE_SECONDS = float(os.environ.get("KILL_DEADLINE_SECONDS", "50"))

_started = time.monotonic()


def left():
    """Seconds until the report is due."""
    return max(0.0, DEADLINE_SECONDS - (time.monotonic() - _started))


def work(n, path):
    """The task: evidence, 20 ms, evidence."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        for word in ("start", "end"):
            os.write(fd, f"{n} {word} {os.getpid()}\n".encode())
            os.fsync(fd)
            if word == "start":
                time.sleep(WORK_SECONDS)
    finally:
        os.close(fd)
    return n * n


def read_lines(path):
    try:
        with open(path) as file:
            return [line.split() for line in file.read().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def wait_for_starts(path, count=KILL_AFTER):
    while sum(line[1] == "start" for line in read_lines(path)) < count:
        if left() == 0:
            raise SystemExit("the tasks did not start in time")
        time.sleep(0.01)


def running_pid(path):
    """A process that runs a task right now, by its own evidence."""
    while left() > 0:
        running = {}
        for n, word, pid in read_lines(path):
            if word == "start":
                running[pid] = n
            else:
                running.pop(pid, None)
        for pid in running:
            if os.path.exists(f"/proc/{pid}"):
                return int(pid)
        time.sleep(0.001)
    raise SystemExit("no task was running")


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def children_named(words):
    """Live processes whose command line has all of the words, below the program that watches this one."""
    # The parent is the reaper, which adopts daemons.
    mine, found = {os.getppid()}, []
    processes = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="latin1") as stat, open(f"/proc/{name}/cmdline", "rb") as cmdline:
                parent = int(stat.read().rpartition(")")[2].split()[1])
                processes.append((int(name), parent, cmdline.read().replace(b"\0", b" ").decode()))
        except (OSError, IndexError, ValueError):
            continue
    for _ in range(12):
        mine.update(pid for pid, parent, _ in processes if parent in mine)
    for pid, _, command in processes:
        if pid in mine and pid != os.getpid() and all(word in command for word in words):
            found.append(pid)
    return found


def start(args, **more):
    """Starts a part of the peer; its output goes to our stderr. Whoever runs this program ends what is left."""
    here = os.path.dirname(os.path.abspath(__file__))
    env = {**os.environ, "PYTHONPATH": here, **more.pop("env", {})}
    return subprocess.Popen(args, env=env, stdout=sys.stderr, stdin=subprocess.DEVNULL, **more)


def start_client(script, folder):
    """This same program as a client that submits, writes `task id` for each submit that returned, and stays."""
    client = start([sys.executable, os.path.abspath(script), "as-client", folder])
    acks = os.path.join(folder, "acks")
    while len(read_lines(acks)) < TASKS:
        if client.poll() is not None or left() == 0:
            raise SystemExit("the client did not submit everything")
        time.sleep(0.02)
    return client


def write_acks(folder, submitted):
    """As a client: a line for every submit, when it has returned."""
    with open(os.path.join(folder, "acks"), "w") as file:
        for n, identity in submitted:
            file.write(f"{n} {identity}\n")
            file.flush()


def acks(folder):
    return {int(n): identity for n, identity in read_lines(os.path.join(folder, "acks"))}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port):
    while left() > 0:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def report(version, evidence, acknowledged, outcomes):
    """Prints the result as the last line of stdout. `outcomes`: n -> ("result", value) or ("failed", why)."""
    wrong = [n for n, (kind, value) in outcomes.items() if kind == "result" and value != n * n]
    if wrong:
        raise SystemExit(f"wrong results: {wrong[:5]}")
    starts = collections.Counter(int(n) for n, word, _ in read_lines(evidence) if word == "start")
    whys = collections.Counter(value for kind, value in outcomes.values() if kind == "failed")
    result = {
        "version": version,
        "acknowledged": acknowledged,
        "results": sum(kind == "result" for kind, _ in outcomes.values()),
        "failed": sum(kind == "failed" for kind, _ in outcomes.values()),
        "lost": acknowledged - len(outcomes),
        "twice": sum(count > 1 for count in starts.values()),
        "started": len(starts),
        "failures": dict(whys.most_common(3)),
        "seconds": round(time.monotonic() - _started, 1),
    }
    print(json.dumps(result), flush=True)
    # Nothing may wait for a peer that is broken: what is left is ended by whoever started this program.
    os._exit(0)
