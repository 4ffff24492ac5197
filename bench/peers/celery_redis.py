"""Celery with Redis as broker and as result backend, two prefork processes.

Settings, from Celery's documentation:
  --pool=prefork --concurrency=2, without gossip, mingle and heartbeat (there is one worker node)
  worker_prefetch_multiplier=64   the guide's advice for very short tasks is 50 to 150; 4 is the default
  ignore_result off: a result that nobody can read would not be the same workload
  one .delay() for each task; the results are awaited together by a ResultSet
REDIS_URL names the Redis of this run. The worker is this same file, imported by `celery -A celery_redis`.
"""

import os
import subprocess
import sys
import time

import celery
from celery import Celery
from celery.result import ResultSet

from measure import SLEEP_SECONDS, WORKERS, measure

PREFETCH = 64

app = Celery("celery_redis", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    worker_prefetch_multiplier=PREFETCH,
    task_ignore_result=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop():
    return None


@app.task
def sleep10():
    time.sleep(SLEEP_SECONDS)


def main():
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", "celery_redis", "worker", "--loglevel=ERROR"),
            *("--pool=prefork", f"--concurrency={WORKERS}"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ],
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__)), "C_FORCE_ROOT": "1"},
        stdout=sys.stderr,
    )
    try:

        def batch(task, n):
            ResultSet([task.delay() for _ in range(n)]).get()

        measure(
            "Celery",
            celery.__version__,
            f"Redis, prefork 2, prefetch {PREFETCH}",
            noop_batch=lambda n: batch(noop, n),
            noop_one=lambda: noop.delay().get(),
            sleep_batch=lambda n: batch(sleep10, n),
        )
    finally:
        worker.terminate()
        worker.wait(timeout=10)


# Under `-m celery -A` this file is the module celery_redis, so tasks must carry that name in the client too.
if __name__ == "__main__":
    import celery_redis

    celery_redis.main()
