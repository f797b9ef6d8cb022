"""The jobs that rq_app.py enqueues."""

import time

import rq


def add(x, y):
    return x + y


def fail():
    raise ValueError("on purpose")


def fail_twice():
    job = rq.get_current_job()
    job.meta["tries"] = job.meta.get("tries", 0) + 1
    job.save_meta()
    if job.meta["tries"] < 3:
        raise ValueError("not yet")
    return job.meta["tries"]


def note(key, value):
    rq.get_current_job().connection.rpush(key, value)


def on_success(job, connection, result):
    connection.rpush("called back", f"{result}")


def sleep(seconds):
    time.sleep(seconds)
    return seconds
