"""A real fabric for the tests: a web service with its embedded PostgreSQL and an agent with two workers, as processes
of their own in a temporary folder, gone with it.

  1. Nothing of the caller's own settings reaches them, and they touch none.
  2. What a process writes is kept in the folder, and its end stands in the message where it does not start.
  3. `close` ends what was started here, and only that.
  4. A secret in a log, a command line, or a file that is not there to hold it, fails `close` (secret_scan.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from secret_scan import told, told_by_arguments

ROOT = Path(__file__).resolve().parents[2]
# The built programs; another checkout's, where the variable says so.
APPS = Path(os.environ.get("FARLOOM_TEST_ROOT") or ROOT) / "apps"
SERVICE = APPS / "web-service/dist/bundle/main.js"
AGENT = APPS / "endpoint-agent/dist/bundle/main.js"
START_S = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_env(**more: str) -> dict[str, str]:
    own = ("FARLOOM_", "DATABASE_URL", "REDIS_URL", "NODE_OPTIONS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    # The workers' Python is the tests' own: same minor, and cloudpickle is there.
    env["PATH"] = os.path.dirname(sys.executable) + os.pathsep + env.get("PATH", "")
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env | more


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


class Program:
    """A Node process whose output goes to a file."""

    def __init__(self, title: str, args: list[str], env: dict[str, str], folder: Path) -> None:
        self.title = title
        self.log = folder / f"{title}.log"
        self._args = ["node", *args]
        self._env = env
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: str) -> None:
        size = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                self._args,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_unblock,
            )
        until = time.monotonic() + START_S
        while ready not in self.log.read_text(errors="replace")[size:]:
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"{self.title} did not start:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """kill -9 of the process alone; it is known to be dead afterwards."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Fabric:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="farloom-python-"))
        # PostgreSQL runs under a user of its own when this is root: the way to its folder must be open to it.
        self.folder.chmod(0o711)
        service_folder = self.folder / "service"
        service_folder.mkdir(mode=0o711)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._key_file = self.folder / "api-key"
        env = clean_env(
            FARLOOM_PORT=str(port),
            FARLOOM_STATE_DIR=str(service_folder),
            FARLOOM_BOOTSTRAP_KEY_FILE=str(self._key_file),
            FARLOOM_RATE_LIMIT_PER_MINUTE="1000000000",
        )
        self.service = Program("service", [str(SERVICE)], env, self.folder)
        self._agents: dict[str, Program] = {}

    def start(self) -> Fabric:
        try:
            self.service.start("the service is ready")
            self.agent("main")
        except BaseException:
            self.close()
            raise
        return self

    @property
    def key(self) -> str:
        return self._key_file.read_text().strip()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a program that uses this fabric."""
        source = str(ROOT / "python/src")
        return clean_env(FARLOOM_URL=self.url, FARLOOM_API_KEY=self.key, FARLOOM_ENDPOINT="main", PYTHONPATH=source)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {self.key}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or b"null")

    def agent(self, name: str, workers: int = 2, env: dict[str, str] | None = None) -> Program:
        """An agent, enrolled as a new endpoint of that name and connected; `env` is added to its environment."""
        code = self.request("POST", "/v1/endpoints", {"name": name})["enrolmentCode"]
        state = ["--state-dir", str(self.folder / f"agent-{name}")]
        enrol = ["node", str(AGENT), "enroll", "--service", self.url, "--code-file", "-", *state]
        subprocess.run(enrol, env=clean_env(), check=True, capture_output=True, timeout=START_S, input=code.encode())
        args = [str(AGENT), "run", *state, "--workers", str(workers), "--stop-workers"]
        own = clean_env(FARLOOM_AGENT_KILL_GRACE_MS="500", **(env or {}))
        agent = Program(f"agent-{name}", args, own, self.folder)
        agent.start("connected")
        self._agents[name] = agent
        return agent

    def close(self) -> None:
        programs = [self.service, *self._agents.values()]
        pids = [program.process.pid for program in programs if program.process is not None]
        found = [leak for pid in pids for leak in told_by_arguments(pid)]
        for agent in self._agents.values():
            agent.stop()
        self.service.stop()
        found += told(self.folder)  # 4
        shutil.rmtree(self.folder, ignore_errors=True)
        if found:
            raise AssertionError("secrets were told: " + "; ".join(sorted(set(found))))


if __name__ == "__main__":
    # By hand: python tests/fabric.py prints the settings and runs until it is told to end.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    fabric = Fabric().start()
    try:
        print(f"export FARLOOM_URL={fabric.url} FARLOOM_API_KEY={fabric.key} FARLOOM_ENDPOINT=main", flush=True)
        signal.sigwait(ends)
    finally:
        fabric.close()
