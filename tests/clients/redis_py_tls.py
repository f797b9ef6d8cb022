"""redis-py with TLS against Keyway: redis_py_tls.py PORT CA CERTIFICATE KEY USER. Ends with "ok", or with a traceback."""

import sys

import redis

port, ca, certificate, key, user = int(sys.argv[1]), *sys.argv[2:6]
r = redis.Redis(port=port, ssl=True, ssl_ca_certs=ca, ssl_certfile=certificate, ssl_keyfile=key, decode_responses=True)


def equal(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


equal(r.acl_whoami(), user)
large = "x" * 3_000_000
assert r.set("large", large)
equal(r.get("large"), large)
pipe = r.pipeline(transaction=False)
for n in range(2000):
    pipe.set(f"key:{n}", n)
equal(pipe.execute(), [True] * 2000)
equal(r.mget([f"key:{n}" for n in range(2000)]), [str(n) for n in range(2000)])

p = r.pubsub(ignore_subscribe_messages=True)
p.subscribe("news")
p.get_message(timeout=5)
r.publish("news", "told")
message = None
while message is None:
    message = p.get_message(timeout=5)
equal(message["data"], "told")

try:
    redis.Redis(port=port, ssl=True, ssl_cert_reqs="required").ping()
    raise AssertionError("an authority that nobody knows was believed")
except redis.exceptions.ConnectionError as error:
    assert "certificate verify failed" in str(error).lower(), error
print("ok")
