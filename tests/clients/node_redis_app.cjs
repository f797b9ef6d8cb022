// What an application does with node-redis beside plain commands: node node_redis_app.cjs HOST PORT RESP PREFIX.
// Prints one line a finding, the same against any server that looks like a standalone one; a deviation ends it.
const assert = require('node:assert');
const { createClient, createClientPool, BasicClientSideCache } = require('redis');

const [host, port, resp, prefix] = process.argv.slice(2);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const key = (name) => prefix + name;
const options = { socket: { host, port: Number(port) }, RESP: Number(resp) };

async function client(more = {}) {
  const redis = createClient({ ...options, ...more });
  redis.on('error', (error) => { console.error('connection:', error.message); });
  return redis.connect();
}

function finding(name, found, expected) {
  if (expected !== undefined) assert.deepEqual(found, expected, name);
  console.log(`${name}: ${JSON.stringify(found)}`);
}

async function refused(call) {
  try {
    return `no error but ${JSON.stringify(await call())}`;
  } catch (error) {
    return `${error.constructor.name} ${error.message}`;
  }
}

async function transactions(redis) {
  finding('multi', await redis.multi().set(key('a'), '1').incr(key('a')).rPush(key('b'), 'x').exec(), ['OK', 2, 1]);
  const typed = redis.multi().hSet(key('h'), 'f', 'v').hGetAll(key('h'));
  finding('typed', await typed.zAdd(key('z'), { score: 1.5, value: 'm' }).zScore(key('z'), 'm').exec());
  finding('error inside', await refused(() => redis.multi().lPush(key('a'), '1').get(key('a')).exec()));
  finding('unknown command', await refused(() => redis.multi().addCommand(['NOSUCH']).set(key('a'), '3').exec()));
  finding('as a pipeline', await redis.multi().set(key('a'), '4').get(key('a')).execAsPipeline(), ['OK', '4']);
  finding('empty', await redis.multi().exec(), []);
  const mine = await client();
  await mine.watch(key('a'));
  await redis.set(key('a'), 'changed');
  finding('watched', await refused(() => mine.multi().set(key('a'), 'lost').exec()));
  await mine.watch([key('a'), key('b')]);
  finding('not changed', await mine.multi().set(key('a'), '1').exec(), ['OK']);
  mine.destroy();
}

async function publishAndSubscribe(redis, seven) {
  const subscriber = await client();
  const heard = [];
  const listen = (message, channel) => heard.push(`${channel} ${message}`);
  await subscriber.subscribe([key('one'), key('two')], listen);
  await subscriber.pSubscribe(key('o*'), (message, channel) => heard.push(`pattern ${channel} ${message}`));
  finding('publish', await redis.publish(key('one'), 'hello'), 2);
  if (seven) {
    await subscriber.sSubscribe(key('one'), (message, channel) => heard.push(`sharded ${channel} ${message}`));
    finding('spublish', await redis.sPublish(key('one'), 'part'), 1);
  }
  await Promise.all(Array.from({ length: 100 }, (_, n) => redis.publish(key('two'), String(n))));
  while (heard.length < (seven ? 103 : 102)) await sleep(10);
  finding('heard', heard.filter((line) => !line.startsWith(`${key('two')} `)).sort());
  const second = heard.filter((line) => line.startsWith(`${key('two')} `));
  finding('in order', second.every((line, n) => line === `${key('two')} ${n}`) && second.length, 100);
  // With RESP3 a subscriber may go on with anything; with RESP2 the client itself refuses.
  finding('command beside', Number(resp) === 3 ? await subscriber.get(key('a')) : '1', '1');
  finding('numsub', await redis.pubSubNumSub([key('one'), key('two')]));
  finding('channels', (await redis.pubSubChannels(key('*'))).sort());
  await subscriber.unsubscribe(key('one'));
  await subscriber.pUnsubscribe();
  finding('publish to none', await redis.publish(key('one'), 'x'), 0);
  await subscriber.unsubscribe();
  subscriber.destroy();
}

async function blocking(redis) {
  const waiting = await client();
  finding('in vain', await waiting.blPop([key('q1'), key('q2')], 1), null);
  const popped = waiting.blPop([key('q1'), key('q2')], 20);
  await sleep(100);
  await redis.rPush(key('q2'), 'late');
  finding('waited', { ...(await popped) }, { key: key('q2'), element: 'late' });
  const behind = [waiting.brPop(key('q1'), 20), waiting.set(key('behind'), '1'), waiting.get(key('behind'))];
  await sleep(100);
  await redis.rPush(key('q1'), 'v');
  finding('pipelined behind a wait', (await Promise.all(behind)).slice(1), ['OK', '1']);
  await redis.zAdd(key('bz'), { score: 1, value: 'a' });
  finding('bzpopmin', await waiting.bzPopMin(key('bz'), 5));
  finding('wait', await redis.sendCommand(['WAIT', '0', '10']), 0);
  waiting.destroy();
}

async function streams(redis) {
  await redis.xGroupCreate(key('x'), 'group', '$', { MKSTREAM: true });
  const reader = await client();
  const read = reader.xReadGroup('group', 'me', { key: key('x'), id: '>' }, { BLOCK: 20000 });
  await sleep(100);
  await redis.xAdd(key('x'), '1-1', { f: 'v' });
  finding('xreadgroup', await read);
  finding('ack', await redis.xAck(key('x'), 'group', '1-1'), 1);
  finding('in vain', await reader.xRead({ key: key('x'), id: '$' }, { BLOCK: 50 }), null);
  reader.destroy();
}

async function cached(redis) {
  const clientSideCache = new BasicClientSideCache();
  const tracking = await client({ clientSideCache });
  await redis.set(key('cached'), 'old');
  finding('cached', [await tracking.get(key('cached')), await tracking.get(key('cached'))], ['old', 'old']);
  finding('from memory', clientSideCache.stats().hitCount, 1);
  await redis.set(key('cached'), 'new');
  while ((await tracking.get(key('cached'))) !== 'new') await sleep(10);
  finding('told of a change', await tracking.get(key('cached')), 'new');
  tracking.destroy();
}

async function connections(redis) {
  const pool = await createClientPool(options, { minimum: 2, maximum: 4 }).on('error', () => {}).connect();
  const counted = await Promise.all(Array.from({ length: 50 }, () => pool.incr(key('pooled'))));
  finding('pool', counted.sort((a, b) => a - b), Array.from({ length: 50 }, (_, n) => n + 1));
  const watched = await pool.execute(async (one) => {
    await one.watch(key('pooled'));
    return one.multi().incr(key('pooled')).exec();
  });
  finding('alone in a pool', watched, [51]);
  pool.destroy();
  const victim = await client({ name: 'victim' });
  finding('kill', await redis.sendCommand(['CLIENT', 'KILL', 'ID', String(await victim.clientId())]), 1);
  await sleep(50);
  finding('after a kill', await victim.get(key('none')), null);
  victim.destroy();
  const other = createClient({ ...options, database: 1, socket: { ...options.socket, reconnectStrategy: false } });
  other.on('error', () => {});
  finding('another database', await refused(() => other.connect()));
  const ping = await client({ pingInterval: 20 });
  await sleep(100);
  finding('pinged', await ping.ping(), 'PONG');
  ping.destroy();
}

async function main() {
  const redis = await client();
  await redis.flushAll();
  const seven = !/redis_version:6/.test(await redis.info('server'));
  await transactions(redis);
  await publishAndSubscribe(redis, seven);
  await blocking(redis);
  await streams(redis);
  if (Number(resp) === 3) await cached(redis);
  await connections(redis);
  await redis.close();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
