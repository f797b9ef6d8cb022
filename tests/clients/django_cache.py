"""Django's own Redis cache and its sessions: django_cache.py HOST PORT RESP PREFIX.

PREFIX becomes KEY_PREFIX; `-` leaves it empty. Prints one line a finding, and goes on after a method that the server
refuses, so that the refusals are findings too. Ends with a traceback at a wrong answer.
"""

import sys
import time

import django
import redis
from django.conf import settings

HOST, PORT, RESP, PREFIX = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].removeprefix("-")
BACKEND = {
    "BACKEND": "django.core.cache.backends.redis.RedisCache",
    "LOCATION": f"redis://{HOST}:{PORT}",
    "KEY_PREFIX": PREFIX,
    "OPTIONS": {"protocol": RESP},
}
settings.configure(
    CACHES={"default": BACKEND, "second": {**BACKEND, "VERSION": 7, "TIMEOUT": None}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SECRET_KEY="not secret",
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import cache, caches  # noqa: E402


def finding(name, call, expected):
    try:
        found = call()
    except redis.RedisError as error:
        return print(f"{name}: refused, {error}", flush=True)
    assert found == expected, f"{name}: {found!r} instead of {expected!r}"
    print(f"{name}: {found!r}", flush=True)


finding("clear", cache.clear, True)
finding("set", lambda: cache.set("k", {"a": [1, 2]}), None)
finding("get", lambda: cache.get("k"), {"a": [1, 2]})
finding("missing", lambda: cache.get("missing", "default"), "default")
finding("add", lambda: [cache.add("once", 1), cache.add("once", 2), cache.get("once")], [True, False, 1])
finding("get_or_set", lambda: [cache.get_or_set("made", lambda: 5), cache.get_or_set("made", 6)], [5, 5])
finding("set that expires at once", lambda: [cache.set("k", 1, timeout=0), cache.get("k")], [None, None])
finding("set that expires", lambda: [cache.set("brief", 1, timeout=1), time.sleep(1.2), cache.get("brief")], [None, None, None])
finding("touch", lambda: [cache.touch("once", 100), cache.touch("missing")], [True, False])
finding("delete", lambda: [cache.delete("once"), cache.delete("once"), "once" in cache], [True, False, False])
finding("incr", lambda: [cache.set("n", 1), cache.incr("n"), cache.incr("n", 10), cache.decr("n")], [None, 2, 12, 11])
try:
    cache.incr("missing")
except ValueError as error:
    print(f"incr of a missing key: {error}", flush=True)

values = {f"many:{n}": n for n in range(50)}
finding("set_many", lambda: [cache.set_many(values), cache.get_many(values)], [[], values])
finding("set_many without an end", lambda: [cache.set_many(values, timeout=None), cache.get_many(values)], [[], values])
for key, value in values.items():
    cache.set(key, value)
finding("get_many of what was set one by one", lambda: cache.get_many([*values, "missing"]), values)
finding("delete_many", lambda: [cache.delete_many(values), cache.get_many(values)], [None, {}])

second = caches["second"]
finding("versions apart", lambda: [second.set("k", "seven"), cache.get("k"), second.get("k")], [None, None, "seven"])
finding("incr_version", lambda: [second.incr_version("k"), second.get("k"), second.get("k", version=8)], [8, None, "seven"])
finding("clear removes every version", lambda: [cache.clear(), second.get("k", version=8)], [True, None])

session = SessionStore()
session["user"] = 42
session.save()
again = SessionStore(session.session_key)
finding("session", lambda: again["user"], 42)
again.cycle_key()
finding("session's old key is gone", lambda: SessionStore().exists(session.session_key), False)
again.flush()
finding("session is gone", lambda: SessionStore(again.session_key).get("user"), None)
