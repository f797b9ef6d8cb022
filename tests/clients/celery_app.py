"""Celery with a worker of its own, as broker and as result backend: celery_app.py HOST PORT PREFIX.

PREFIX is Celery's `global_keyprefix`; `-` leaves it empty. Prints one line a finding, the same against any server that
looks like a standalone one; what does not come within PATIENCE seconds, or raises, is a finding that begins with "failed".
"""

import os
import subprocess
import sys
import time
from pathlib import Path

HOST, PORT, PREFIX = sys.argv[1], sys.argv[2], sys.argv[3].removeprefix("-")
PATIENCE = float(sys.argv[4]) if len(sys.argv) > 4 else 20
os.environ.update(ADDRESS=f"{HOST}:{PORT}", PREFIX=PREFIX)
os.chdir(Path(__file__).parent)
sys.path.insert(0, ".")
sys.dont_write_bytecode = True

import celery_tasks as tasks  # noqa: E402
import kombu  # noqa: E402
import redis  # noqa: E402
from celery import chain, chord, group  # noqa: E402
from celery.exceptions import CeleryError  # noqa: E402

app = tasks.app
plain = redis.Redis(host=HOST, port=int(PORT), decode_responses=True)
process = None
failed = 0


def finding(name, call):
    global failed
    try:
        print(f"{name}: {call()!r}", flush=True)
    except (redis.RedisError, kombu.exceptions.KombuError, CeleryError, TimeoutError, AssertionError) as error:
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


def worker(name, *more):
    command = [sys.executable, "-B", "-m", "celery", "-A", "celery_tasks", "worker", "-n", f"{name}@keyway", "-l", "WARNING"]
    return subprocess.Popen([*command, "-c", "2", "-Q", "urgent,normal,late", *more], stdout=sys.stderr, stderr=sys.stderr)


def take_without_ack():
    """A consumer that dies with a message: what it took comes back after the visibility timeout."""
    options = {**app.conf.broker_transport_options, "visibility_timeout": 0.2, "unacked_restore_limit": None}
    with kombu.Connection(app.conf.broker_url, transport_options=options) as connection:
        queue = kombu.Queue("orphans")(connection.channel())
        queue.declare()
        connection.Producer(serializer="json").publish({"n": 1}, routing_key="orphans", exchange="")
        channel = queue.channel
        taken = until("the first delivery", queue.get)
        assert taken.payload == {"n": 1} and channel._size("orphans") == 0
        time.sleep(0.3)
        # As the consumer's own timer does it; the message must not also be restored at this channel's close.
        channel.qos._vrestore_count = 0
        channel.qos.restore_visible(interval=1)
        again = until("the second delivery", queue.get)
        first = (again.payload, again.delivery_info["redelivered"])
        again.ack()
        channel.qos._delivered.clear()
        left = (channel._size("orphans"), plain.hlen(PREFIX + "unacked"))
        rejected = kombu.Queue("rejects")(channel)
        rejected.declare()
        connection.Producer().publish("again", routing_key="rejects", exchange="")
        until("a message to reject", rejected.get).requeue()
        back = until("the requeued message", rejected.get)
        back.reject()
        return first, left, back.payload, channel._size("rejects"), rejected.purge()


def priorities():
    with kombu.Connection(app.conf.broker_url, transport_options=app.conf.broker_transport_options) as connection:
        queue = kombu.Queue("ranked")(connection.channel())
        queue.declare()
        for priority in (9, 3, 0, 6):
            connection.Producer().publish(priority, routing_key="ranked", exchange="", priority=priority)
        taken = [until("a message", queue.get) for _ in range(4)]
        for message in taken:
            message.ack()
        return [message.payload for message in taken]


def queued_before_any_worker():
    for priority in (9, 3, 0, 6):
        tasks.note.apply_async((PREFIX + "trace", priority), priority=priority)
    with app.connection_for_read() as connection:
        return connection.default_channel._size("normal")


def progress():
    result = tasks.stepwise.delay()
    until("progress", lambda: result.state == "PROGRESS" and result.info)
    return result.get(timeout=PATIENCE)


def forget():
    result = tasks.add.delay(1, 1)
    return result.get(timeout=PATIENCE), result.forget(), result.state


def expire():
    result = tasks.add.apply_async((1, 1), expires=-1)
    return until("an expiry", lambda: result.state == "REVOKED" and result.state)


def revoke():
    result = tasks.add.apply_async((1, 1), countdown=2)
    answers = app.control.revoke(result.id, reply=True, timeout=1)
    return [list(answer) for answer in answers], until("a revocation", lambda: result.state == "REVOKED" and result.state)


def saved_group():
    result = group(tasks.add.s(1, 1), tasks.add.s(2, 2)).delay()
    result.save()
    return app.GroupResult.restore(result.id).get(timeout=PATIENCE)


def get(signature):
    return lambda: signature.delay().get(timeout=PATIENCE)


def active_queues():
    queues = until("an answer", lambda: app.control.inspect(timeout=0.5).active_queues())
    return sorted(queue["name"] for queue in queues["first@keyway"])


def many():
    results = [tasks.add.delay(n, n) for n in range(30)]
    return [result.get(timeout=PATIENCE) for result in results]


def with_worker():
    trace = PREFIX + "trace"
    finding("worker answers", lambda: until("a ping", lambda: app.control.ping(timeout=0.5)))
    finding("executed", lambda: sorted(until("four notes", lambda: plain.llen(trace) == 4 and plain.lrange(trace, 0, -1))))
    finding("result", get(tasks.add.s(2, 3)))
    finding("urgent queue", get(tasks.urgent.s(1)))
    finding("late queue", get(tasks.late.s(2)))
    finding("many results", many)
    finding("chain", get(chain(tasks.add.s(1, 2), tasks.add.s(10))))
    finding("group", get(group(tasks.add.s(n, 1) for n in range(10))))
    finding("chord", get(chord((tasks.add.s(n, n) for n in range(10)), tasks.total.s())))
    finding("chords", get(group(chord([tasks.add.s(n, 1), tasks.add.s(n, 2)], tasks.total.s()) for n in range(3))))
    finding("retries", get(tasks.third_time.s()))
    finding("failure", lambda: repr(tasks.fails.delay().get(timeout=PATIENCE, propagate=False)))
    finding("eta", lambda: tasks.add.apply_async((1, 1), countdown=0.5).get(timeout=PATIENCE))
    finding("expired", expire)
    finding("progress", progress)
    finding("forget", forget)
    finding("revoked", revoke)
    finding("active queues", active_queues)
    finding("saved group", saved_group)


finding("flush", plain.flushall)
finding("taken and never acknowledged", take_without_ack)
finding("priorities", priorities)
finding("queued", queued_before_any_worker)
process = worker("first")
try:
    with_worker()
finally:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
finding("left unacknowledged", lambda: (plain.hlen(PREFIX + "unacked"), plain.zcard(PREFIX + "unacked_index")))
sys.exit(1 if failed else 0)
