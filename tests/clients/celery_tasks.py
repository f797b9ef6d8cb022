"""The Celery application that celery_app.py drives; ADDRESS and PREFIX come from the environment."""

import os
import time

import celery

ADDRESS, PREFIX = os.environ["ADDRESS"], os.environ["PREFIX"]

app = celery.Celery("keyway", broker=f"redis://{ADDRESS}/0", backend=f"redis://{ADDRESS}/0")
app.conf.update(
    broker_transport_options={
        "global_keyprefix": PREFIX,
        "visibility_timeout": 3600,
        "priority_steps": [0, 3, 6, 9],
        "queue_order_strategy": "priority",
    },
    result_backend_transport_options={"global_keyprefix": PREFIX},
    task_routes={"celery_tasks.urgent": {"queue": "urgent"}, "celery_tasks.late": {"queue": "late"}},
    task_default_queue="normal",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_track_started=True,
    task_send_sent_event=True,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
    result_expires=600,
)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def urgent(x):
    return f"urgent {x}"


@app.task
def late(x):
    return f"late {x}"


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fails():
    raise ValueError("on purpose")


@app.task(bind=True)
def stepwise(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    time.sleep(0.3)
    return "done"


@app.task
def note(key, value):
    """Leaves a trace in a list of the broker's, outside of Celery."""
    import redis

    redis.Redis.from_url(f"redis://{ADDRESS}/0").rpush(key, value)
