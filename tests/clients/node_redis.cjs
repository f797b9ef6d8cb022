// node-redis in standalone mode against Keyway: node node_redis.cjs PORT RESP. Prints "ok".
const assert = require('node:assert');
const { createClient, defineScript } = require('redis');

async function main() {
  const client = createClient({
    socket: { port: Number(process.argv[2]), host: '127.0.0.1', reconnectStrategy: false },
    RESP: Number(process.argv[3]),
    name: 'node',
    scripts: {
      add: defineScript({
        NUMBER_OF_KEYS: 1,
        SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
        parseCommand(parser, key, amount) {
          parser.pushKey(key);
          parser.push(String(amount));
        },
        transformReply: undefined,
      }),
    },
  });
  client.on('error', (error) => { throw error; });
  await client.connect();
  await client.flushAll();
  assert.equal(await client.ping(), 'PONG');
  assert.equal(await client.clientGetName(), 'node');
  assert.equal(await client.set('k', 'v', { EX: 100 }), 'OK');
  assert.equal(await client.get('k'), 'v');
  assert.equal(await client.get('missing'), null);

  const entries = Array.from({ length: 300 }, (_, n) => [`key:${n}`, String(n)]);
  await client.mSet(entries);
  assert.deepEqual(await client.mGet(entries.map(([key]) => key)), entries.map(([, value]) => value));
  const found = new Set();
  for await (const page of client.scanIterator({ MATCH: 'key:*', COUNT: 20 })) [page].flat().forEach((key) => found.add(key));
  assert.equal(found.size, 300);
  assert.equal(await client.dbSize(), 301);
  assert.equal(await client.del(entries.map(([key]) => key)), 300);

  // Everything that is called in one turn goes out as one pipeline.
  const values = await Promise.all(entries.map(([key], n) => client.incrBy(key, n)));
  assert.deepEqual(values, values.map((_, n) => n));

  await client.hSet('h', { a: '1', b: '2' });
  assert.deepEqual({ ...(await client.hGetAll('h')) }, { a: '1', b: '2' });
  await client.zAdd('z', [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]);
  assert.equal(await client.zScore('z', 'a'), 1.5);
  assert.deepEqual((await client.zRangeWithScores('z', 0, -1)).map(({ value, score }) => [value, score]), [['a', 1.5], ['b', 2]]);
  await client.xAdd('x', '1-1', { f: 'v' });
  assert.equal(await client.xLen('x'), 1);
  for (let n = 0; n < 20; n += 1) assert.equal(Number(await client.add(`lua:${n}`, 5)), 5);
  await assert.rejects(client.lPush('k', '1'), /WRONGTYPE/);
  await assert.rejects(client.sendCommand(['CLUSTER', 'SLOTS']), /cluster support disabled/);
  assert.match(await client.info('replication'), /role:master/);
  await client.close();
  console.log('ok');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
