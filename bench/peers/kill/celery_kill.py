"""Kill tests of Celery with Redis as broker and result backend. FIRST row (default): Celery's and Redis's defaults.
With CELERY_CAREFUL=1, what Celery's documentation gives for tasks that are idempotent and must not be lost:
  task_acks_late               the message is acknowledged after the task ran, not before
  task_reject_on_worker_lost   a task whose pool process died goes back to the queue
  Redis with appendonly yes    (appendfsync everysec is its default): the queue survives a restart
In both rows:
  visibility_timeout=10 s      after which unacknowledged messages are delivered again; the default, an hour, is longer
                               than this test, and would count as lost what comes back then
  broker_connection_retry      on, as is the default: the worker connects again by itself
Killed: worker, a process of the prefork pool; executor, the worker's main process, which is started again as a
supervisor does; broker, Redis, started again on the same folder; client, after all its .delay() have returned: another
process asks for the results by id (AsyncResult), as documented.
"""

import os
import sys
import time

import celery
from celery import Celery
from celery.result import AsyncResult

import kill_common as common

CAREFUL = os.environ.get("CELERY_CAREFUL") == "1"
PORT = os.environ.get("KILL_REDIS_PORT") or str(common.free_port())
URL = f"redis://127.0.0.1:{PORT}/0"

app = Celery("celery_kill", broker=URL, backend=URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 10},
    task_acks_late=CAREFUL,
    task_reject_on_worker_lost=CAREFUL,
)


@app.task
def work(n, path):
    return common.work(n, path)


def submit(folder):
    evidence = os.path.join(folder, "evidence")
    common.write_acks(folder, ((n, work.delay(n, evidence).id) for n in range(common.TASKS)))


def start_redis(folder):
    durable = ["--appendonly", "yes"] if CAREFUL else []
    redis = common.start(["redis-server", "--port", PORT, "--bind", "127.0.0.1", "--dir", folder, *durable])
    common.wait_for_port(int(PORT))
    return redis


def start_worker():
    args = [sys.executable, "-m", "celery", "-A", "celery_kill", "worker", "--loglevel=ERROR", "--pool=prefork"]
    return common.start([*args, f"--concurrency={common.WORKERS}"], env={"KILL_REDIS_PORT": PORT, "C_FORCE_ROOT": "1"})


def collect(ids):
    outcomes = {}
    while common.left() > 0 and len(outcomes) < len(ids):
        for n in ids.keys() - outcomes.keys():
            try:
                found = AsyncResult(ids[n], app=app)
                state = found.state
                if state == "SUCCESS":
                    outcomes[n] = ("result", found.result)
                elif state in ("FAILURE", "REVOKED"):
                    outcomes[n] = ("failed", type(found.result).__name__)
            except Exception:  # the broker is away: asked again
                break
        time.sleep(0.3)
    return outcomes


def main(part, folder):
    evidence = os.path.join(folder, "evidence")
    os.environ["KILL_REDIS_PORT"] = PORT
    redis = start_redis(folder)
    worker = start_worker()
    if part == "client":
        client = common.start_client(__file__, folder)
    else:
        submit(folder)
    common.wait_for_starts(evidence)
    if part == "worker":
        common.kill(common.running_pid(evidence))
    elif part == "executor":
        common.kill(worker.pid)
        time.sleep(0.5)
        start_worker()
    elif part == "broker":
        common.kill(redis.pid)
        time.sleep(0.5)
        start_redis(folder)
    else:
        common.kill(client.pid)
    ids = common.acks(folder)
    common.report(celery.__version__, evidence, len(ids), collect(ids))


# Under `-m celery -A` this file is the module celery_kill, so tasks must carry that name in the client too.
if __name__ == "__main__":
    os.environ["KILL_REDIS_PORT"] = PORT
    import celery_kill

    if sys.argv[1] == "as-client":
        celery_kill.submit(sys.argv[2])
        time.sleep(1000)
    else:
        celery_kill.main(sys.argv[1], sys.argv[2])
