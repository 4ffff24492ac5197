"""Kill tests of Ray core: `ray start --head --num-cpus=0` with the driver beside it, and one node of two CPUs joined by
`ray start --address`, so that the node can be lost without the driver.
  RAY_AUTH_MODE=token   what `ray start` turns on by itself; all parts get one token, made for this run
  max_retries=3         the default of a task: it is run again when its worker or node died
Killed: worker, the process that runs a task; executor, the node's raylet, and then a new node joins, as a cluster
launcher would have it; broker, the GCS, without the external Redis that its fault tolerance asks for, as is the default;
client, the driver, after all its .remote() have returned: its objects and tasks share its fate, as documented, and no
other process can ask for them.
"""

import os
import secrets
import sys
import tempfile
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"

import ray

import kill_common as common

RAY = os.path.join(os.path.dirname(sys.executable), "ray")


@ray.remote
def work(n, path):
    return common.work(n, path)


def start_head(port):
    args = [RAY, "start", "--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false"]
    more = ["--object-store-memory=200000000", f"--temp-dir={tempfile.gettempdir()}"]
    if common.start([*args, *more]).wait() != 0:
        raise SystemExit("ray start --head failed")


def start_node(port):
    args = [RAY, "start", f"--address=127.0.0.1:{port}", f"--num-cpus={common.WORKERS}"]
    if common.start([*args, "--object-store-memory=200000000"]).wait() != 0:
        raise SystemExit("ray start failed")


def raylets():
    return common.children_named(["raylet/raylet "])


def connect(port):
    ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)


def submit(folder):
    evidence = os.path.join(folder, "evidence")
    references = {n: work.remote(n, evidence) for n in range(common.TASKS)}
    common.write_acks(folder, ((n, reference.hex()) for n, reference in references.items()))
    return references


def collect(references):
    outcomes = {}
    while common.left() > 1 and len(outcomes) < len(references):
        open_ = {reference: n for n, reference in references.items() if n not in outcomes}
        ready, _ = ray.wait(list(open_), num_returns=len(open_), timeout=1)
        for reference in ready:
            try:
                outcomes[open_[reference]] = ("result", ray.get(reference, timeout=5))
            except Exception as error:
                outcomes[open_[reference]] = ("failed", type(error).__name__)
    return outcomes


def main(part, folder):
    evidence = os.path.join(folder, "evidence")
    port = common.free_port()
    os.environ["KILL_PORT"] = str(port)
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    start_head(port)
    before = set(raylets())
    start_node(port)
    if part == "client":
        process = common.start_client(__file__, folder)
    else:
        connect(port)
        references = submit(folder)
    common.wait_for_starts(evidence)
    outcomes = {}
    if part == "worker":
        common.kill(common.running_pid(evidence))
    elif part == "executor":
        for pid in set(raylets()) - before:
            common.kill(pid)
        time.sleep(0.5)
        start_node(port)
    elif part == "broker":
        for pid in common.children_named(["gcs_server"]):
            common.kill(pid)
    else:
        common.kill(process.pid)
        time.sleep(3)
    if part != "client":
        outcomes = collect(references)
    common.report(ray.__version__, evidence, len(common.acks(folder)), outcomes)


if __name__ == "__main__":
    if sys.argv[1] == "as-client":
        connect(os.environ["KILL_PORT"])
        kept = submit(sys.argv[2])
        time.sleep(1000)
    else:
        main(sys.argv[1], sys.argv[2])
