"""redis-py's RedisCluster on a listener that shows a cluster of one node."""

import sys

import redis
from redis.cluster import RedisCluster

port = int(sys.argv[1])
for protocol in (2, 3):
    cluster = RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
    nodes = cluster.get_nodes()
    assert [(node.host, node.port) for node in nodes] == [("127.0.0.1", port)], nodes
    for number in range(200):
        assert cluster.set(f"key:{number}", number)
    for number in range(200):
        assert cluster.get(f"key:{number}") == str(number)
    assert cluster.mget_nonatomic("key:1", "key:2", "nosuch") == ["1", "2", None]
    assert cluster.delete("key:1", "key:2") == 2
    pipeline = cluster.pipeline()
    for number in range(10, 20):
        pipeline.incr(f"key:{number}")
    assert pipeline.execute() == list(range(11, 21))
    assert len(list(cluster.scan_iter(match="key:*", count=50))) == 198
    assert cluster.dbsize() == 198
    assert cluster.cluster_keyslot("foo") == 12182
    assert cluster.cluster_info()["cluster_state"] == "ok"
    assert len(cluster.cluster_nodes()) == 1
    assert cluster.eval("return redis.call('GET', KEYS[1])", 1, "key:3") == "3"
    cluster.flushall()
    cluster.close()
print("ok")
