"""redis-py's PubSub against Keyway: redis_py_pubsub.py PORT PROTOCOL. Ends with "ok", or with a traceback."""

import sys
import threading

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(port=port, protocol=protocol, decode_responses=True)


def equal(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def next_of(pubsub):
    message = pubsub.get_message(timeout=20)
    assert message is not None, "nothing came"
    return message["type"], message["channel"], message["data"]


p = r.pubsub()
p.subscribe("news", "sport")
equal({next_of(p), next_of(p)}, {("subscribe", "news", 1), ("subscribe", "sport", 2)})
p.psubscribe("w*")
equal(next_of(p), ("psubscribe", "w*", 3))
equal(r.publish("news", "hello"), 1)
equal(next_of(p), ("message", "news", "hello"))
equal(r.publish("weather", "rain"), 1)
equal(next_of(p), ("pmessage", "weather", "rain"))
equal(dict(r.pubsub_numsub("news", "sport", "x")), {"news": 1, "sport": 1, "x": 0})
equal(r.pubsub_numpat(), 1)
equal(set(r.pubsub_channels()), {"news", "sport"})
p.ping()
# In RESP3 the answer is a plain +PONG, of which redis-py takes the first letter for the type.
equal(p.get_message(timeout=20)["type"], "pong" if protocol == 2 else "P")
p.unsubscribe("news")
equal(next_of(p), ("unsubscribe", "news", 2))
p.unsubscribe()
p.punsubscribe()
equal({next_of(p), next_of(p)}, {("unsubscribe", "sport", 1), ("punsubscribe", "w*", 0)})
equal(r.publish("sport", "nobody"), 0)
p.close()

got, done = [], threading.Event()


def handler(message):
    got.append(int(message["data"]))
    if len(got) == 500:
        done.set()


p = r.pubsub(ignore_subscribe_messages=True)
p.subscribe(numbers=handler)
thread = p.run_in_thread(sleep_time=0.01)
while r.pubsub_numsub("numbers")[0][1] == 0:
    pass
pipe = r.pipeline(transaction=False)
for n in range(500):
    pipe.publish("numbers", n)
equal(pipe.execute(), [1] * 500)
assert done.wait(20), f"{len(got)} came"
equal(got, list(range(500)))
thread.stop()
thread.join()
print("ok")
