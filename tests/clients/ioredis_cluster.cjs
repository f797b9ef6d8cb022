// ioredis's Cluster on a listener that shows a cluster of one node: node ioredis_cluster.cjs PORT. Prints "ok".
const assert = require('node:assert');
const { Cluster } = require('ioredis');

async function main() {
  const port = Number(process.argv[2]);
  const cluster = new Cluster([{ host: '127.0.0.1', port }], { clusterRetryStrategy: () => null });
  cluster.on('error', (error) => { throw error; });
  await cluster.flushall();
  for (let n = 0; n < 200; n += 1) assert.equal(await cluster.set(`key:${n}`, n), 'OK');
  const values = await Promise.all(Array.from({ length: 200 }, (_, n) => cluster.get(`key:${n}`)));
  assert.deepEqual(values, values.map((_, n) => String(n)));
  assert.deepEqual(cluster.nodes('master').map((node) => node.options.port), [port]);
  assert.equal(await cluster.dbsize(), 200);
  await cluster.flushall();
  cluster.disconnect();
  console.log('ok');
}

main().catch((error) => { console.error(error); process.exit(1); });
