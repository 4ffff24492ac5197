"""Attempts to get out of where a task belongs, each a small function: attempt(name, place) runs one.

Each answers how far it came, as far as it can see that itself:
  stopped     it got nowhere
  contained   it did what it wanted, and reached nothing but its own task or sandbox
  allowed     it reached what is not its own
What only others can see (a daemon that stays, a port that answers) the test looks at, by the answer's `watch`.

All are bounded, so that they harm nothing where nothing stops them: at most 200 processes, 300 MB of memory, 64 MB of
disk, 60 s; and they take back what they did where they can. `place` says where things are on the endpoint's machine.
"""

import contextlib
import ctypes
import glob
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

STOPPED, CONTAINED, ALLOWED = "stopped", "contained", "allowed"
ATTEMPTS = {}
MAX_FORKS = 200
MAX_MEMORY = 300 * 2**20
MAX_DISK = 64 * 2**20
libc = ctypes.CDLL(None, use_errno=True)


def attempt(name, place):
    try:
        answer = ATTEMPTS[name](place)
    except (OSError, ValueError, MemoryError) as error:
        answer = {"verdict": STOPPED, "why": "%s: %s" % (type(error).__name__, error)}
    return {"verdict": answer} if isinstance(answer, str) else answer


def escape(fn):
    ATTEMPTS[fn.__name__] = fn
    return fn


def first_of(pattern):
    found = glob.glob(pattern)
    if not found:
        raise FileNotFoundError(pattern)
    return found[0]


def read(path, size=4096):
    with open(path, "rb") as file:
        return file.read(size)


def planted(path):
    """Whether a line of ours can be added where the endpoint's user would read it later; taken out again."""
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    if parent in ("/", "/tmp", "/home"):
        raise FileNotFoundError("the home is not there")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    size = os.path.getsize(path) if os.path.exists(path) else None
    with open(path, "ab") as file:
        file.write(b"# escaped\n")
    if size is None:
        os.unlink(path)
    else:
        os.truncate(path, size)


def connected(family, address):
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(2)
        sock.connect(address)
    return ALLOWED


# ------------------------------------------------------------------ files


@escape
def read_the_agents_key(place):
    return ALLOWED if b"PRIVATE KEY" in read(place["state"] + "/private-key.pem") else STOPPED


@escape
def read_another_tasks_folder(place):
    for path in glob.glob(place["state"] + "/run/*/scratch/secret.txt"):
        if place["secret"] in read(path).decode():
            return ALLOWED
    return STOPPED


@escape
def read_the_journal(place):
    return ALLOWED if read(first_of(place["state"] + "/journal/*")) else STOPPED


@escape
def read_the_users_home(place):
    return ALLOWED if read(place["home"] + "/.ssh/id_ed25519") else STOPPED


@escape
def read_etc_shadow(place):
    return ALLOWED if b":" in read("/etc/shadow") else STOPPED


@escape
def open_the_state_folder_to_all(place):
    mode = os.stat(place["state"]).st_mode & 0o777
    os.chmod(place["state"], 0o777)
    os.chmod(place["state"], mode)
    return ALLOWED


@escape
def write_bashrc(place):
    planted(place["home"] + "/.bashrc")
    return ALLOWED


@escape
def write_authorized_keys(place):
    planted(place["home"] + "/.ssh/authorized_keys")
    return ALLOWED


@escape
def write_a_cron_entry(place):
    path = "/etc/cron.d/farloom-escape"
    with open(path, "w") as file:
        file.write("# escaped\n")
    # A folder of the sandbox's own is nobody's crontab.
    verdict = ALLOWED if os.path.exists("/etc/crontab") else CONTAINED
    os.unlink(path)
    return verdict


@escape
def write_in_code_that_the_agent_or_workers_run(place):
    done = []
    for path in (sys.modules["__main__"].__file__, place["home"] + "/.local/lib/python3/site-packages/usercustomize.py"):
        with contextlib.suppress(OSError):
            planted(path)
            done.append(path)
    return ALLOWED if done else STOPPED


@escape
def change_the_cached_function_of_another(place):
    path = first_of(place["state"] + "/functions/*")
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(byte)
    return ALLOWED


@escape
def plant_a_payload_file(place):
    # Whoever reads one compares its digest: a planted one is found out.
    path = place["state"] + "/payloads/" + "ab" * 32
    with open(path, "wb") as file:
        file.write(b"escaped")
    os.unlink(path)
    return CONTAINED


@escape
def swap_its_output_for_a_link_to_the_agents_key(place):
    out = os.readlink("/proc/self/fd/1")
    os.unlink(out)
    os.symlink(place["state"] + "/private-key.pem", out)
    os.kill(os.getpid(), signal.SIGKILL)


@escape
def swap_its_result_for_a_link(place):
    # The result itself is larger than a frame and goes to a file; that file becomes a link to the agent's key.
    import gc

    runner = next(o for o in gc.get_objects() if type(o).__name__ == "PythonRunner")
    store = runner.payloads
    rename = os.rename

    def swapped(source, target):
        rename(source, target)
        if os.path.dirname(target) == store:
            os.rename = rename
            os.unlink(target)
            os.symlink(place["state"] + "/private-key.pem", target)

    os.rename = swapped
    return {"verdict": CONTAINED, "padding": "x" * 100_000}


@escape
def put_a_fifo_where_the_agent_reads(place):
    out = os.readlink("/proc/self/fd/1")
    os.unlink(out)
    os.mkfifo(out)
    time.sleep(0.5)
    return {"verdict": CONTAINED, "watch": "answers"}


# ------------------------------------------------------------------ secrets


@escape
def find_credentials_in_its_environment(place):
    return ALLOWED if place["secret"] in "".join(os.environ.values()) else STOPPED


@escape
def read_the_agents_environment(place):
    return ALLOWED if place["secret"].encode() in read("/proc/%d/environ" % place["agent"], 1 << 20) else STOPPED


@escape
def use_another_workers_secret(place):
    text = read(place["state"] + "/run/workers.json", 1 << 20).decode()
    return ALLOWED if '"secret"' in text else STOPPED


@escape
def knock_as_another_worker(place):
    import gc

    worker = next(o for o in gc.get_objects() if type(o).__name__ == "Worker")
    with contextlib.closing(worker._connect()) as sock:
        sock.settimeout(5)
        name, worker.name = worker.name, "python-999"
        try:
            sock.sendall(worker._hello())
        finally:
            worker.name = name
        return ALLOWED if b"welcome" in sock.recv(4096) else STOPPED


# ------------------------------------------------------------------ processes


@escape
def signal_the_agent(place):
    os.kill(place["agent"], 0)
    return ALLOWED if b"endpoint-agent" in read("/proc/%d/cmdline" % place["agent"]) else CONTAINED


@escape
def see_other_processes(place):
    return ALLOWED if b"endpoint-agent" in read("/proc/%d/cmdline" % place["agent"]) else STOPPED


def victim_pid(place):
    """The worker of the other task: it says its own number where it can be read, and has the secret in its memory."""
    for path in glob.glob("/proc/[0-9]*/stat"):
        pid = int(path.split("/")[2])
        with contextlib.suppress(OSError):
            if pid != os.getpid() and b"farloom_worker" in read("/proc/%d/cmdline" % pid):
                if place["state"].encode() in os.readlink("/proc/%d/cwd" % pid).encode():
                    return pid
    raise ProcessLookupError("no other worker is seen")


@escape
def ptrace_a_sibling(place):
    pid = victim_pid(place)
    ATTACH, DETACH = 16, 17
    if libc.ptrace(ATTACH, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0x40000000)
    libc.ptrace(DETACH, pid, None, None)
    return ALLOWED


@escape
def read_a_siblings_memory(place):
    pid = victim_pid(place)
    with open("/proc/%d/maps" % pid) as maps:
        at = next(int(line.split("-")[0], 16) for line in maps if "[heap]" in line)
    with open("/proc/%d/mem" % pid, "rb", 0) as memory:
        memory.seek(at)
        return ALLOWED if memory.read(64) else STOPPED


def daemon(command, env):
    """A process that has left group, session and parent."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execve(command[0], command, env)
        os._exit(0)
    os.wait()
    time.sleep(0.2)


def sleeper(mark):
    return [sys.executable, "-S", "-c", "import time; time.sleep(60) # %s" % mark]


@escape
def leave_a_daemon(place):
    daemon(sleeper(place["mark"]), dict(os.environ))
    return {"verdict": STOPPED, "watch": "process"}


@escape
def leave_a_daemon_without_its_environment(place):
    daemon(sleeper(place["mark"]), {})
    return {"verdict": STOPPED, "watch": "process"}


@escape
def leave_a_child_that_ignores_signals(place):
    code = "import signal,time\nfor n in (1,2,15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60) # %s" % place["mark"]
    subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    time.sleep(0.2)
    return {"verdict": STOPPED, "watch": "process"}


@escape
def listen_on_a_port_and_stay(place):
    code = (
        "import socket,time\ns=socket.socket(); s.setsockopt(1,2,1); s.bind(('0.0.0.0',%d)); s.listen(); time.sleep(60) # %s"
        % (place["port"], place["mark"])
    )
    daemon([sys.executable, "-S", "-c", code], {})
    return {"verdict": STOPPED, "watch": "port"}


@escape
def fork_bomb(place):
    children = []
    try:
        for _ in range(MAX_FORKS):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
    return ALLOWED if len(children) == MAX_FORKS else CONTAINED


# ------------------------------------------------------------------ resources


@escape
def fill_memory(place):
    held = []
    try:
        for _ in range(MAX_MEMORY // 2**22):
            held.append(bytearray(os.urandom(4096) * 1024))
    except MemoryError:
        held.clear()
        return CONTAINED
    return ALLOWED


@escape
def fill_the_disk_with_one_file(place):
    try:
        with open("big", "wb") as file:
            for _ in range(MAX_DISK // 2**20):
                file.write(b"\1" * 2**20)
                file.flush()
    except OSError:
        return CONTAINED
    return ALLOWED


@escape
def fill_the_disk_with_many_files(place):
    # Eight megabytes each. Whoever watches ends the task while it sleeps.
    for n in range(MAX_DISK // 2**23):
        with open("big-%d" % n, "wb") as file:
            file.write(b"\1" * 2**23)
    time.sleep(5)
    return ALLOWED


@escape
def raise_its_limits(place):
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            resource.setrlimit(what, (hard, resource.RLIM_INFINITY))
    bounded = resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY
    return STOPPED if bounded else ALLOWED


@escape
def dump_core(place):
    pid = os.fork()
    if pid == 0:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        os.abort()
    return ALLOWED if os.WCOREDUMP(os.waitpid(pid, 0)[1]) else STOPPED


# ------------------------------------------------------------------ the machine


@escape
def become_root(place):
    os.setuid(0)
    return ALLOWED if os.getuid() == 0 and os.access("/etc/shadow", os.R_OK) else CONTAINED


@escape
def change_the_core_pattern(place):
    old = read("/proc/sys/kernel/core_pattern")
    with open("/proc/sys/kernel/core_pattern", "wb", 0) as file:
        file.write(old)
    return ALLOWED


@escape
def mount_over_a_folder(place):
    # In a user namespace of its own nobody else sees it.
    CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
    pid = os.fork()
    if pid == 0:
        if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0:
            libc.umount(b"/mnt")
            os._exit(1)
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 and libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0:
            os._exit(2)
        os._exit(0)
    return (STOPPED, ALLOWED, CONTAINED)[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


@escape
def open_a_raw_device(place):
    for path in ("/dev/mem", "/dev/kmsg", *glob.glob("/dev/sd?"), *glob.glob("/dev/vd?")):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR))
            return ALLOWED
    return STOPPED


# ------------------------------------------------------------------ the network


@escape
def ask_the_metadata_address(place):
    with contextlib.closing(socket.socket()) as sock:
        sock.settimeout(0.5)
        try:
            sock.connect(("169.254.169.254", 80))
        except (socket.timeout, ConnectionRefusedError):
            # Nobody answers on this machine, and nobody kept the packet from leaving.
            pass
    return ALLOWED


@escape
def connect_to_the_service(place):
    return connected(socket.AF_INET, ("127.0.0.1", place["service"]))


@escape
def connect_to_the_munge_socket(place):
    return connected(socket.AF_UNIX, place["munge"])


@escape
def connect_to_an_abstract_socket(place):
    return connected(socket.AF_UNIX, "\0" + place["abstract"])


@escape
def ask_the_agents_control_socket(place):
    return connected(socket.AF_UNIX, place["state"] + "/control.sock")


# ------------------------------------------------------------------ what the next task finds: another submitter's


def shared_places(place):
    return ["/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()]


@escape
def leave_files_in_shared_folders(place):
    for folder in shared_places(place):
        with contextlib.suppress(OSError), open("%s/farloom-%s" % (folder, place["mark"]), "w") as file:
            file.write("escaped")
    return {"verdict": STOPPED, "next": "found_files"}


def found_files(place):
    found = [path for folder in shared_places(place) for path in glob.glob("%s/farloom-%s" % (folder, place["mark"]))]
    for path in found:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return ALLOWED if found else STOPPED


ATTEMPTS["found_files"] = found_files


@escape
def leave_code_in_the_workers_memory(place):
    sys.modules["farloom_escape"] = place["mark"]
    return {"verdict": STOPPED, "next": "found_code"}


def found_code(place):
    return ALLOWED if sys.modules.pop("farloom_escape", None) == place["mark"] else STOPPED


ATTEMPTS["found_code"] = found_code


def shared_memory(place, flags):
    return libc.shmget(place["port"], 4096, flags)


@escape
def leave_shared_memory(place):
    IPC_CREAT = 0o1000
    return {"verdict": STOPPED, "next": "found_memory"} if shared_memory(place, IPC_CREAT | 0o600) >= 0 else STOPPED


def found_memory(place):
    IPC_RMID = 0
    found = shared_memory(place, 0)
    if found >= 0:
        libc.shmctl(found, IPC_RMID, None)
    return ALLOWED if found >= 0 else STOPPED


ATTEMPTS["found_memory"] = found_memory


def victim(place):
    """Not an escape: the other task, whose secret is wanted. It stays until it is cancelled."""
    with open("secret.txt", "w") as file:
        file.write(place["secret"])
    time.sleep(120)


def nothing(place):
    return STOPPED


ATTEMPTS["victim"] = victim
ATTEMPTS["nothing"] = nothing
