"""redis-py in standalone mode against Keyway: redis_py.py PORT PROTOCOL. Ends with "ok", or with a traceback."""

import sys

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(port=port, protocol=protocol, decode_responses=True, client_name="py")
binary = redis.Redis(port=port, protocol=protocol)


def equal(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


assert r.flushall()
assert r.ping()
equal(r.client_getname(), "py")
assert r.client_id() > 0
assert any(client["name"] == "py" for client in r.client_list())

assert r.set("k", "v", ex=100)
equal(r.get("k"), "v")
assert 0 < r.ttl("k") <= 100
equal(r.get("missing"), None)
equal(binary.set("bin", b"\x00\r\n\xff"), True)
equal(binary.get("bin"), b"\x00\r\n\xff")
equal(binary.echo(b"\x00\xff"), b"\x00\xff")

names = {f"key:{n}": str(n) for n in range(500)}
assert r.mset(names)
equal(r.mget(list(names)), list(names.values()))
equal(r.exists(*names), 500)
equal(r.dbsize(), 502)
equal(set(r.scan_iter(match="key:*", count=50)), set(names))
equal(set(r.keys("key:*")), set(names))
assert r.randomkey() in set(names) | {"k", "bin"}
equal(r.delete(*names), 500)

equal(r.hset("h", mapping={"a": 1, "b": 2}), 2)
equal(r.hgetall("h"), {"a": "1", "b": "2"})
equal(list(r.hscan_iter("h")), [("a", "1"), ("b", "2")])
equal(r.rpush("l", 1, 2, 3), 3)
equal(r.lrange("l", 0, -1), ["1", "2", "3"])
equal(r.sadd("s", "x", "y"), 2)
equal(r.smembers("s"), {"x", "y"})
equal(r.zadd("z", {"a": 1.5, "b": 2}), 2)
equal(r.zscore("z", "a"), 1.5)
equal([tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)], [("a", 1.5), ("b", 2.0)])
equal(r.incrbyfloat("f", 1.5), 1.5)
equal(r.xadd("x", {"f": "v"}, id="1-1"), "1-1")
equal(r.xlen("x"), 1)
assert r.xread({"x": "0"})
equal(r.geoadd("g", (13.361389, 38.115556, "Palermo")), 1)

pipe = r.pipeline(transaction=False)
for n in range(1000):
    pipe.set(f"pipe:{n}", n)
    pipe.get(f"pipe:{n}")
equal(pipe.execute(), [answer for n in range(1000) for answer in (True, str(n))])

equal(r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a"), ["k", "a"])
script = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
equal([script(keys=[f"count:{n}"], args=[n]) for n in range(20)], list(range(20)))
r.script_flush()
equal([script(keys=[f"count:{n}"], args=[0]) for n in range(20)], list(range(20)))

info = r.info()
equal(info["cluster_enabled"], 0)
equal(info.get("redis_mode", info.get("server_mode")), "standalone")
equal(info["role"], "master")
equal(info["db0"]["keys"], r.dbsize())
equal(r.config_get("databases"), {"databases": "1"})
assert r.command_count() > 100
assert r.time()[0] > 0
assert not r.slowlog_get()

for call, text in [
    (lambda: r.lpush("k", 1), "WRONGTYPE"),
    (lambda: r.execute_command("NOSUCH"), "unknown command"),
    (lambda: r.get(), None),
    (lambda: r.rename("k", "other"), "CROSSSLOT"),
    (lambda: r.execute_command("CLUSTER", "SLOTS"), "cluster support disabled"),
]:
    try:
        call()
    except redis.ResponseError as error:
        assert text in str(error) or text in type(error).__name__.upper(), error
    except TypeError:
        pass
    else:
        raise AssertionError(f"{text} expected")
equal(r.get("k"), "v")

large = "x" * (5 << 20)
assert r.set("large", large)
equal(r.get("large"), large)

locked = redis.Redis(port=port, protocol=protocol, password="nobody asked for one")
try:
    locked.ping()
except (redis.AuthenticationError, redis.ResponseError, redis.ConnectionError):
    pass
print("ok")
