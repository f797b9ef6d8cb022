// ioredis in standalone mode against Keyway: node ioredis.cjs PORT. Prints "ok".
const assert = require('node:assert');
const { Redis } = require('ioredis');

async function main() {
  const redis = new Redis({ port: Number(process.argv[2]), maxRetriesPerRequest: 1, connectionName: 'io' });
  redis.on('error', (error) => { throw error; });
  await redis.flushall();
  assert.equal(await redis.ping(), 'PONG');
  assert.equal(await redis.client('GETNAME'), 'io');
  assert.equal(await redis.set('k', 'v', 'EX', 100), 'OK');
  assert.equal(await redis.get('k'), 'v');
  assert.equal(await redis.get('missing'), null);

  const keys = Array.from({ length: 300 }, (_, n) => `key:${n}`);
  await redis.mset(...keys.flatMap((key, n) => [key, n]));
  assert.deepEqual(await redis.mget(keys), keys.map((_, n) => String(n)));
  const found = new Set();
  for await (const page of redis.scanStream({ match: 'key:*', count: 20 })) page.forEach((key) => found.add(key));
  assert.equal(found.size, 300);
  assert.equal(await redis.del(keys), 300);

  const pipeline = redis.pipeline();
  for (let n = 0; n < 500; n += 1) pipeline.set(`p:${n}`, n).get(`p:${n}`).hset(`h:${n}`, 'f', n).hgetall(`h:${n}`);
  const results = await pipeline.exec();
  assert.equal(results.length, 2000);
  results.forEach(([error]) => assert.equal(error, null));
  for (let n = 0; n < 500; n += 1) {
    assert.equal(results[4 * n + 1][1], String(n));
    assert.deepEqual({ ...results[4 * n + 3][1] }, { f: String(n) });
  }

  // The automatic pipelines of many calls at once.
  const values = await Promise.all(Array.from({ length: 200 }, async (_, n) => redis.incrby(`n:${n}`, n)));
  assert.deepEqual(values, values.map((_, n) => n));

  redis.defineCommand('add', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  for (let n = 0; n < 20; n += 1) assert.equal(await redis.add(`lua:${n}`, 5), 5);

  assert.deepEqual(await redis.zadd('z', 1.5, 'a', 2, 'b'), 2);
  assert.deepEqual(await redis.zrange('z', 0, -1), ['a', 'b']);
  assert.equal(Number(await redis.zscore('z', 'a')), 1.5);
  const binary = Buffer.from([0, 13, 10, 255]);
  await redis.set('bin', binary);
  assert.deepEqual(await redis.getBuffer('bin'), binary);
  await assert.rejects(redis.lpush('k', 1), /WRONGTYPE/);
  await assert.rejects(redis.call('CLUSTER', 'SLOTS'), /cluster support disabled/);
  assert.match(await redis.info('replication'), /role:master/);
  await redis.quit();
  console.log('ok');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
