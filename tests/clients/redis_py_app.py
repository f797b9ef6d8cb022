"""What an application does with redis-py beside plain commands: redis_py_app.py HOST PORT RESP PREFIX.

Transactions, compare-and-set, locks, pub/sub, blocking pops, streams, scripts, pools, retries, client-side caching and the
asyncio client. Prints one line a finding, the same against any server that looks like a standalone one, and ends with a
traceback at the first deviation. Every key begins with PREFIX: with a hash tag in it all keys lie in one slot.
"""

import asyncio
import sys
import threading
import time

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

HOST, PORT, RESP, PREFIX = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
COMMON = dict(host=HOST, port=PORT, protocol=RESP, decode_responses=True)
r = redis.Redis(**COMMON)


def finding(name, found, expected=None):
    assert expected is None or found == expected, f"{name}: {found!r} instead of {expected!r}"
    print(f"{name}: {found!r}", flush=True)


def refused(call):
    try:
        return f"no error but {call()!r}"
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"


def in_background(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def transactions():
    a, b = PREFIX + "a", PREFIX + "b"
    with r.pipeline(transaction=True) as pipe:
        pipe.set(a, 1).incr(a).rpush(b, "x", "y").lrange(b, 0, -1).hset(PREFIX + "h", mapping={"f": "v"}).hgetall(PREFIX + "h")
        finding("transaction", pipe.execute(), [True, 2, 2, ["x", "y"], 1, {"f": "v"}])
        pipe.get(a).lpush(a, 1).incr(a)
        results = pipe.execute(raise_on_error=False)
        finding("error inside a transaction", [type(one).__name__ for one in results], ["str", "ResponseError", "int"])
        pipe.execute_command("NOSUCH").set(a, 1)
        finding("unknown command in a transaction", refused(pipe.execute))
    finding("nothing of it was run", r.get(a), "3")
    with r.pipeline() as pipe:
        pipe.ping().echo("e").time()
        finding("transaction without a key", pipe.execute()[:2], [True, "e"])
        pipe.publish(PREFIX + "nobody", "m").set(a, 5)
        finding("publish in a transaction", pipe.execute(), [0, True])
        pubsub = r.pubsub()
        for n in range(8):
            pubsub.subscribe(f"{PREFIX}channel:{n}")
        messages(pubsub, 8)
        for n in range(8):
            pipe.set(a, n).publish(f"{PREFIX}channel:{n}", n)
        finding("publish to listeners", pipe.execute(), [True, 1] * 8)
        finding("heard", sorted(data for _, _, _, data in messages(pubsub, 8)), [str(n) for n in range(8)])
        pubsub.close()

    def raise_by_ten(pipe):
        number = int(pipe.get(a))
        pipe.multi()
        pipe.set(a, number + 10)

    finding("watch, get, multi", r.transaction(raise_by_ten, a), [True])
    with r.pipeline() as pipe:
        pipe.watch(a)
        r.set(a, "changed by another")
        pipe.multi()
        pipe.set(a, "lost")
        finding("a watched key that changed", refused(pipe.execute))
        pipe.watch(a, b)
        pipe.unwatch()
        pipe.multi()
        pipe.set(a, 100)
        finding("after unwatch", pipe.execute(), [True])

    r.set(PREFIX + "counter", 0)

    def count():
        mine = redis.Redis(**COMMON)
        for _ in range(25):
            mine.transaction(increment, PREFIX + "counter")

    def increment(pipe):
        number = int(pipe.get(PREFIX + "counter"))
        pipe.multi()
        pipe.set(PREFIX + "counter", number + 1)

    threads = [in_background(count) for _ in range(4)]
    for thread in threads:
        thread.join(60)
    finding("compare-and-set by four", r.get(PREFIX + "counter"), "100")


def locks():
    name = PREFIX + "lock"
    with r.lock(name, timeout=10) as lock:
        assert lock.locked() and lock.owned() and lock.extend(10) and lock.reacquire()
        finding("a second owner", r.lock(name, timeout=10, blocking=False).acquire(), False)
        finding("waiting in vain", r.lock(name, timeout=10, blocking_timeout=0.2, sleep=0.05).acquire(), False)
    finding("released", r.exists(name), 0)
    finding("releasing what is not held", refused(r.lock(name, timeout=1).release))
    order = []

    def critical(number):
        with redis.Redis(**COMMON).lock(name, timeout=30, sleep=0.01):
            order.append(("in", number))
            time.sleep(0.02)
            order.append(("out", number))

    threads = [in_background(lambda number=number: critical(number)) for number in range(4)]
    for thread in threads:
        thread.join(60)
    assert all(order[n][1] == order[n + 1][1] for n in range(0, 8, 2)), order
    finding("one at a time", len(order), 8)


def messages(pubsub, count):
    """The next messages, as (type, pattern, channel, data), confirmations included."""
    found, deadline = [], time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline, found
        message = pubsub.get_message(timeout=1)
        if message:
            found.append((message["type"], message["pattern"], message["channel"], message["data"]))
    return found


def publish_and_subscribe():
    one, two, pattern = PREFIX + "news.1", PREFIX + "news.2", PREFIX + "news.*"
    pubsub = r.pubsub()
    pubsub.subscribe(one, two)
    pubsub.psubscribe(pattern)
    finding("confirmations", messages(pubsub, 3))
    finding("publish", r.publish(one, "hello"), 2)
    finding("delivered", sorted(messages(pubsub, 2), key=str))
    finding("numsub", r.pubsub_numsub(one, two, "nobody"))
    finding("channels", sorted(r.pubsub_channels(PREFIX + "*")))
    pubsub.ping("are you there")
    finding("pong", messages(pubsub, 1))
    for n in range(200):
        r.publish(two, n)
    received = [m for m in messages(pubsub, 400) if m[0] == "message"]
    finding("in order", [int(m[3]) for m in received] == list(range(200)), True)
    pubsub.unsubscribe(one)
    pubsub.punsubscribe()
    finding("fewer", messages(pubsub, 2))
    finding("publish to one less", r.publish(one, "nobody hears"), 0)
    pubsub.unsubscribe()
    finding("none", messages(pubsub, 1))
    pubsub.close()

    heard, pubsub = [], r.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(**{one: lambda message: heard.append(message["data"])})
    thread = pubsub.run_in_thread(sleep_time=0.05, daemon=True)
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        r.publish(one, "to a handler")
        time.sleep(0.02)
    thread.stop()
    thread.join(20)
    finding("handler in a thread", heard[0], "to a handler")
    listener = r.pubsub()
    listener.subscribe(one)
    iterator = listener.listen()
    next(iterator)
    r.publish(one, "to a generator")
    finding("listen", next(iterator)["data"], "to a generator")
    listener.close()


def sharded_publish_and_subscribe():
    channel = PREFIX + "shard"
    pubsub = r.pubsub()
    pubsub.ssubscribe(channel, PREFIX + "other")
    deadline = time.monotonic() + 20
    found = []
    while len(found) < 2 and time.monotonic() < deadline:
        message = pubsub.get_message(timeout=1)
        found += [(message["type"], message["channel"], message["data"])] if message else []
    finding("sharded confirmations", found)
    finding("spublish", r.execute_command("SPUBLISH", channel, "m"), 1)
    message = pubsub.get_message(timeout=20)
    finding("smessage", (message["type"], message["channel"], message["data"]))
    pubsub.close()


def blocking():
    q1, q2, z = PREFIX + "q1", PREFIX + "q2", PREFIX + "z"
    started = time.monotonic()
    finding("blpop in vain", r.blpop([q1, q2], timeout=1), None)
    assert 0.9 < time.monotonic() - started < 20
    in_background(lambda: (time.sleep(0.2), redis.Redis(**COMMON).rpush(q2, "late")))
    finding("blpop that waits", list(r.blpop([q1, q2], timeout=20)), [q2, "late"])
    r.rpush(q1, "first")
    r.rpush(q2, "second")
    finding("in argument order", [list(r.brpop([q1, q2], timeout=1)) for _ in range(2)], [[q1, "first"], [q2, "second"]])
    # A move over two slots is nothing a cluster can do, whatever the settings.
    tagged = [key if "{" in PREFIX else key + "{m}" for key in (q1, q2)]
    r.rpush(tagged[0], "moved")
    finding("blmove", r.blmove(*tagged, 5, "LEFT", "RIGHT"), "moved")
    finding("brpoplpush", r.brpoplpush(*reversed(tagged), timeout=5), "moved")
    r.zadd(z, {"a": 1, "b": 2})
    finding("bzpopmin", list(r.bzpopmin(z, timeout=5))[:2], [z, "a"])
    finding("bzpopmax", list(r.bzpopmax(z, timeout=5))[:2], [z, "b"])
    finding("wrong type", refused(lambda: r.blpop(z + "s" if r.set(z + "s", "v") else "", timeout=1)))

    jobs, done = [f"job {n}" for n in range(100)], []

    def work():
        mine = redis.Redis(**COMMON)
        while job := mine.blpop(q1, timeout=1):
            done.append(job[1])

    r.delete(q1)
    workers = [in_background(work) for _ in range(4)]
    for job in jobs:
        r.rpush(q1, job)
    for worker in workers:
        worker.join(60)
    finding("every job once", sorted(done) == sorted(jobs), True)


def streams():
    stream, group = PREFIX + "stream", "workers"
    r.xgroup_create(stream, group, id="$", mkstream=True)
    finding("group exists", refused(lambda: r.xgroup_create(stream, group)))
    finding("nothing new", r.xreadgroup(group, "c1", {stream: ">"}, block=100) or None)
    in_background(lambda: (time.sleep(0.2), redis.Redis(**COMMON).xadd(stream, {"n": "0"}, id="1-1")))
    finding("xreadgroup that waits", r.xreadgroup(group, "c1", {stream: ">"}, block=20_000))
    for n in range(2, 5):
        r.xadd(stream, {"n": n}, id=f"{n}-1")
    finding("second consumer", r.xreadgroup(group, "c2", {stream: ">"}, count=2))
    finding("pending", r.xpending(stream, group))
    finding("ack", r.xack(stream, group, "1-1", "2-1"), 2)
    finding("claimed", r.xautoclaim(stream, group, "c1", min_idle_time=0)[1])
    finding("xread that waits not", r.xread({stream: "3-1"}, block=1000))
    finding("trimmed", r.xtrim(stream, maxlen=1, approximate=False), 3)
    finding("groups", [(one["name"], one["consumers"], one["pending"]) for one in r.xinfo_groups(stream)])


def scripts_and_scans():
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    r.script_flush()
    finding("script", add(keys=[PREFIX + "n"], args=[5]), 5)
    with r.pipeline(transaction=True) as pipe:
        add(keys=[PREFIX + "n"], args=[1], client=pipe)
        pipe.get(PREFIX + "n")
        finding("script in a transaction", pipe.execute(), [6, "6"])
    r.script_flush()
    with r.pipeline(transaction=False) as pipe:
        add(keys=[PREFIX + "n"], args=[1], client=pipe)
        add(keys=[PREFIX + "n2"], args=[1], client=pipe)
        finding("scripts in a pipeline", pipe.execute(), [7, 1])
    finding("error of a script", refused(lambda: r.eval("return redis.error_reply('MINE no')", 0)))
    names = {f"{PREFIX}scan:{n}" for n in range(200)}
    r.mset({name: 1 for name in names})
    finding("scan_iter", set(r.scan_iter(match=PREFIX + "scan:*", count=37)) == names, True)
    finding("scan_iter by type", set(r.scan_iter(match=PREFIX + "scan:*", _type="list")), set())
    finding("unlink", r.unlink(*names), 200)
    r.sadd(PREFIX + "s", *range(500))
    finding("sscan_iter", len(set(r.sscan_iter(PREFIX + "s", count=50))), 500)
    r.zadd(PREFIX + "big", {f"m{n}": n for n in range(500)})
    finding("zscan_iter", len(dict(r.zscan_iter(PREFIX + "big", count=50))), 500)


def pools():
    pool = redis.BlockingConnectionPool(max_connections=3, timeout=20, **COMMON)
    shared, counts = redis.Redis(connection_pool=pool), []
    threads = [in_background(lambda: counts.extend(shared.incr(PREFIX + "pool") for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.join(60)
    finding("eight threads, three connections", sorted(counts) == list(range(1, 161)), True)
    checked = redis.Redis(health_check_interval=0.1, socket_keepalive=True, socket_timeout=20, **COMMON)
    checked.set(PREFIX + "checked", 1)
    time.sleep(0.2)
    finding("after a health check", checked.get(PREFIX + "checked"), "1")
    stubborn = redis.Redis(retry=Retry(ExponentialBackoff(cap=1, base=0.05), 5), client_name="stubborn", **COMMON)
    finding("name", stubborn.client_getname(), "stubborn")
    stubborn.connection_pool.disconnect()
    finding("after a reconnect", stubborn.client_getname(), "stubborn")
    by_url = redis.Redis.from_url(f"redis://{HOST}:{PORT}/0?protocol={RESP}&decode_responses=True")
    finding("by url", by_url.ping(), True)
    other = redis.Redis(db=1, **COMMON)
    finding("another database", refused(other.ping))
    single = redis.Redis(single_connection_client=True, **COMMON)
    finding("single connection", [single.set(PREFIX + "one", 1), single.get(PREFIX + "one")], [True, "1"])


def killed_connection():
    victim = redis.Redis(retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3), **COMMON)
    ident = victim.client_id()
    finding("kill", r.client_kill_filter(_id=ident), 1)
    finding("retried after a kill", victim.get(PREFIX + "none"), None)
    assert victim.client_id() != ident


def client_side_cache():
    """redis-py 5.1 and newer, over RESP3."""
    try:
        from redis.cache import CacheConfig
    except ImportError:
        return
    if RESP != 3:
        return
    key = PREFIX + "cached"
    r.set(key, "old")
    cached = redis.Redis(cache_config=CacheConfig(), **COMMON)
    try:
        assert cached.get(key) == "old" and cached.get(key) == "old"
    except redis.ConnectionError as error:
        # It looks at the server's name and version first, and does so with a server that stands alone too.
        return finding("no client-side cache", str(error))
    finding("held by the client", cached.get_cache().size, 1)
    r.set(key, "new")
    deadline = time.monotonic() + 20
    while cached.get(key) != "new":
        assert time.monotonic() < deadline, "the change was never told"
        time.sleep(0.01)
    finding("told of the change", cached.get(key), "new")
    r.flushall()
    deadline = time.monotonic() + 20
    while cached.get(key) is not None:
        assert time.monotonic() < deadline, "the flush was never told"
        time.sleep(0.01)
    finding("told of the flush", cached.get(key))


async def asynchronous():
    a = redis.asyncio.Redis(**COMMON)
    finding("async gather", await asyncio.gather(*(a.incr(f"{PREFIX}async:{n}") for n in range(50))), [1] * 50)
    async with a.pipeline(transaction=True) as pipe:
        finding("async transaction", await pipe.set(PREFIX + "async", 1).incr(PREFIX + "async").execute(), [True, 2])
        await pipe.watch(PREFIX + "async")
        await a.incr(PREFIX + "async")
        pipe.multi()
        pipe.incr(PREFIX + "async")
        try:
            finding("async watch", await pipe.execute(), "an error")
        except redis.WatchError as error:
            finding("async watch", str(error))
    async with a.pubsub() as pubsub:
        await pubsub.subscribe(PREFIX + "async")
        listener = pubsub.listen()
        await anext(listener)
        await a.publish(PREFIX + "async", "m")
        finding("async listen", (await anext(listener))["data"], "m")
    waiting = asyncio.create_task(a.blpop([PREFIX + "async:q"], timeout=20))
    await asyncio.sleep(0.1)
    await a.rpush(PREFIX + "async:q", "v")
    finding("async blpop", list(await waiting), [PREFIX + "async:q", "v"])
    async with a.lock(PREFIX + "async:lock", timeout=5) as lock:
        finding("async lock", await lock.owned(), True)
    finding("async scan_iter", len([key async for key in a.scan_iter(match=PREFIX + "async:*")]) >= 50, True)
    await a.aclose()


r.flushall()
transactions()
locks()
publish_and_subscribe()
if not r.info("server")["redis_version"].startswith("6."):
    sharded_publish_and_subscribe()
blocking()
streams()
scripts_and_scans()
pools()
killed_connection()
client_side_cache()
asyncio.run(asynchronous())
