"""RQ with a worker of its own: rq_app.py HOST PORT PREFIX [PATIENCE].

PREFIX becomes RQ_KEY_PREFIX; `-` leaves RQ's own. Prints one line a finding, the same against any server that looks like a
standalone one; what does not come within PATIENCE seconds, or raises, is a finding that begins with "failed".
"""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

HOST, PORT, PREFIX = sys.argv[1], sys.argv[2], sys.argv[3]
PATIENCE = float(sys.argv[4]) if len(sys.argv) > 4 else 20
if PREFIX != "-":
    os.environ["RQ_KEY_PREFIX"] = PREFIX
os.chdir(Path(__file__).parent)
sys.path.insert(0, ".")
sys.dont_write_bytecode = True

import redis  # noqa: E402
import rq  # noqa: E402
import rq_tasks as tasks  # noqa: E402
from rq.exceptions import DuplicateJobError, TimeoutFormatError  # noqa: E402
from rq.job import Dependency, Job  # noqa: E402
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry  # noqa: E402

connection = redis.Redis(host=HOST, port=int(PORT))
high, low = rq.Queue("high", connection=connection), rq.Queue("low", connection=connection)
process = None
failed = 0


def finding(name, call):
    global failed
    try:
        print(f"{name}: {call()!r}", flush=True)
    except (redis.RedisError, DuplicateJobError, TimeoutFormatError, TimeoutError, AssertionError) as error:
        failed += 1
        print(f"failed, {name}: {type(error).__name__}: {error}", flush=True)


def until(what, probe):
    deadline = time.monotonic() + PATIENCE
    while not (found := probe()):
        assert not process or process.poll() is None, "the worker ended"
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)
    return found


def result_of(job):
    until(f"the end of {job.func_name}", lambda: job.get_status(refresh=True) in ("finished", "failed"))
    return job.get_status().value, job.return_value()


def enqueue_many():
    jobs = low.enqueue_many([rq.Queue.prepare_data(tasks.add, (n, n), job_id=f"many-{n}") for n in range(20)])
    return len(jobs), low.count, high.count


def ordered():
    """Enqueued while nobody works: the worker takes all of the first queue before the second."""
    for n in range(3):
        low.enqueue(tasks.note, "trace", f"low {n}")
        high.enqueue(tasks.note, "trace", f"high {n}")
    high.enqueue(tasks.note, "trace", "first", at_front=True)
    return high.count, low.count


def cancelled():
    job = low.enqueue(tasks.add, 1, 1)
    job.cancel()
    status = job.get_status()
    job.requeue() if status == "failed" else job.delete()
    return status.value, Job.exists(job.id, connection)


def trace():
    notes = until("seven notes", lambda: connection.llen("trace") == 7 and connection.lrange("trace", 0, -1))
    return [note.decode() for note in notes]


def failure():
    job = high.enqueue(tasks.fail)
    status = result_of(job)[0]
    registry = FailedJobRegistry(queue=high)
    registered = job.id in until("the registry", registry.get_job_ids)
    text = job.latest_result().exc_string.strip().splitlines()[-1]
    registry.requeue(job)
    return status, registered, text, result_of(job)[0], registry.remove(job, delete_job=True)


def dependent():
    first = low.enqueue(tasks.add, 1, 2)
    second = low.enqueue(tasks.add, 3, 4)
    third = high.enqueue(tasks.add, 5, 6, depends_on=Dependency(jobs=[first, second], enqueue_at_front=True))
    never = high.enqueue(tasks.add, 7, 8, depends_on=high.enqueue(tasks.fail))
    return result_of(third), never.get_status().value


def retried():
    return result_of(high.enqueue(tasks.fail_twice, retry=rq.Retry(max=3)))


def called_back():
    job = high.enqueue(tasks.add, 20, 1, on_success=rq.Callback(tasks.on_success))
    return result_of(job), until("the callback", lambda: connection.lrange("called back", 0, -1))


def unique():
    high.enqueue(tasks.sleep, 0.2, job_id="only", unique=True)
    try:
        high.enqueue(tasks.sleep, 0.2, job_id="only", unique=True)
    except DuplicateJobError:
        return "refused", result_of(Job.fetch("only", connection=connection))
    return "taken twice"


def scheduled():
    job = low.enqueue_in(timedelta(seconds=1), tasks.add, 40, 2)
    waits = job.id in ScheduledJobRegistry(queue=low).get_job_ids()
    return waits, result_of(job)


def stopped():
    """A running job that is stopped by a command, over pub/sub."""
    from rq.command import send_stop_job_command

    job = low.enqueue(tasks.sleep, 60)
    until("the start", lambda: Job.fetch(job.id, connection=connection).worker_name)

    def stop():
        if job.get_status(refresh=True) == "stopped":
            return "stopped"
        send_stop_job_command(connection, job.id)
        time.sleep(0.2)

    return until("the stop", stop)


def latest_result():
    """A result that is waited for: XREAD BLOCK."""
    job = low.enqueue(tasks.sleep, 0.3)
    return job.latest_result(timeout=int(PATIENCE)).return_value


def workers():
    found = rq.Worker.all(connection=connection)
    return [(worker.name, worker.queue_names(), worker.failed_job_count > 0) for worker in found]


def emptied():
    tail = rq.Queue("tail", connection=connection)
    tail.enqueue_many([rq.Queue.prepare_data(tasks.add, (n, n)) for n in range(10)])
    return tail.empty(), tail.count, tail.delete(delete_jobs=True), "tail" in [queue.name for queue in rq.Queue.all(connection)]


def fetched():
    jobs = Job.fetch_many([f"many-{n}" for n in range(20)] + ["none"], connection=connection)
    until("all of them", lambda: all(job is None or job.get_status(refresh=True) == "finished" for job in jobs))
    return [job and job.return_value() for job in jobs], len(FinishedJobRegistry(queue=low)) > 20


def with_worker():
    finding("a worker is known", lambda: until("a worker", lambda: rq.Worker.count(connection=connection)))
    finding("in the order of queues", trace)
    finding("results", fetched)
    finding("failure", failure)
    finding("dependency", dependent)
    finding("retry", retried)
    finding("callback", called_back)
    finding("unique", unique)
    finding("scheduled", scheduled)
    finding("waited for", latest_result)
    finding("stopped", stopped)
    finding("workers", workers)
    finding("emptied", emptied)


finding("flush", connection.flushall)
finding("cancelled", cancelled)
finding("enqueued in order", ordered)
finding("enqueued at once", enqueue_many)
command = [sys.executable, "-B", "-m", "rq.cli", "worker", "high", "low", "--with-scheduler"]
command += ["-n", "worker-1", "--logging_level", "WARNING", "--url", f"redis://{HOST}:{PORT}/0"]
process = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)
try:
    with_worker()
finally:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
process = None
finding("workers left", lambda: rq.Worker.count(connection=connection))
sys.exit(1 if failed else 0)
