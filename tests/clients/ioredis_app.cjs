// What an application does with ioredis beside plain commands: node ioredis_app.cjs HOST PORT PREFIX.
// Prints one line a finding, the same against any server that looks like a standalone one; a deviation ends it.
const assert = require('node:assert');
const { Redis } = require('ioredis');

const [host, port, prefix] = process.argv.slice(2);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const key = (name) => prefix + name;

function client(more = {}) {
  const redis = new Redis({ host, port: Number(port), maxRetriesPerRequest: 3, ...more });
  redis.on('error', (error) => { console.error('connection:', error.message); });
  return redis;
}

function finding(name, found, expected) {
  if (expected !== undefined) assert.deepEqual(found, expected, name);
  console.log(`${name}: ${JSON.stringify(found)}`);
}

const refused = async (call) => call().then((value) => `no error but ${JSON.stringify(value)}`, (error) => error.message);

async function transactions(redis) {
  const multi = redis.multi().set(key('a'), 1).incr(key('a')).rpush(key('b'), 'x');
  finding('multi', await multi.exec(), [[null, 'OK'], [null, 2], [null, 1]]);
  const results = await redis.multi().lpush(key('a'), 1).get(key('a')).exec();
  finding('error inside', results.map(([error, value]) => (error ? error.message : value)));
  finding('unknown command', await refused(() => redis.multi().call('NOSUCH').set(key('a'), 3).exec()));
  await redis.multi({ pipeline: false });
  finding('queued', [await redis.set(key('a'), 10), await redis.get(key('a'))], ['QUEUED', 'QUEUED']);
  finding('exec', await redis.exec(), [[null, 'OK'], [null, '10']]);
  const mine = redis.duplicate();
  await mine.watch(key('a'));
  await redis.set(key('a'), 'changed');
  finding('watched', await mine.multi().set(key('a'), 'lost').exec(), null);
  await mine.watch(key('a'));
  finding('not changed', await mine.multi().set(key('a'), '1').exec(), [[null, 'OK']]);
  await mine.multi({ pipeline: false });
  finding('discarded', [await mine.set(key('a'), 5), await mine.discard(), await mine.get(key('a'))], ['QUEUED', 'OK', '1']);
  mine.disconnect();
}

async function publishAndSubscribe(redis, seven) {
  const subscriber = redis.duplicate();
  const heard = [];
  subscriber.on('message', (channel, message) => heard.push(`${channel} ${message}`));
  subscriber.on('pmessage', (pattern, channel, message) => heard.push(`${pattern} ${channel} ${message}`));
  subscriber.on('smessage', (channel, message) => heard.push(`sharded ${channel} ${message}`));
  finding('subscribe', [await subscriber.subscribe(key('one'), key('two')), await subscriber.psubscribe(key('o*'))], [2, 3]);
  finding('publish', await redis.publish(key('one'), 'hello'), 2);
  if (seven) finding('ssubscribe', [await subscriber.ssubscribe(key('one')), await redis.spublish(key('one'), 'part')], [1, 1]);
  for (let n = 0; n < 100; n += 1) redis.publish(key('two'), n);
  while (heard.length < (seven ? 103 : 102)) await sleep(10);
  finding('heard', heard.filter((line) => !line.startsWith(`${key('two')} `)).sort());
  const second = heard.filter((line) => line.startsWith(`${key('two')} `));
  finding('in order', second.every((line, n) => line === `${key('two')} ${n}`) && second.length, 100);
  finding('unsubscribe', [await subscriber.unsubscribe(key('one')), await subscriber.punsubscribe(key('o*'))], [2, 1]);
  // ioredis subscribes again by itself.
  const ready = new Promise((resolve) => { subscriber.once('ready', resolve); });
  subscriber.disconnect(true);
  await ready;
  // What still goes to the connection that it left is nobody's.
  while (!heard.includes(`${key('two')} back`)) {
    await redis.publish(key('two'), 'back');
    await sleep(20);
  }
  subscriber.disconnect();
}

async function blocking(redis) {
  const waiting = redis.duplicate();
  finding('in vain', await waiting.blpop(key('q1'), key('q2'), 1), null);
  const popped = waiting.blpop(key('q1'), key('q2'), 20);
  await sleep(100);
  await redis.rpush(key('q2'), 'late');
  finding('waited', await popped, [key('q2'), 'late']);
  const behind = [waiting.brpop(key('q1'), 20), waiting.set(key('behind'), 1), waiting.get(key('behind'))];
  await sleep(100);
  await redis.rpush(key('q1'), 'v');
  finding('pipelined behind a wait', await Promise.all(behind), [[key('q1'), 'v'], 'OK', '1']);
  await redis.zadd(key('z'), 1, 'a');
  finding('bzpopmin', await waiting.bzpopmin(key('z'), 5));
  finding('in a transaction', await waiting.multi().blpop(key('q1'), 0).exec(), [[null, null]]);
  waiting.disconnect();
}

async function streams(redis) {
  await redis.xgroup('CREATE', key('x'), 'group', '$', 'MKSTREAM');
  const reader = redis.duplicate();
  const read = reader.xreadgroup('GROUP', 'group', 'me', 'BLOCK', 20000, 'STREAMS', key('x'), '>');
  await sleep(100);
  await redis.xadd(key('x'), '1-1', 'f', 'v');
  finding('xreadgroup', await read);
  finding('ack', await redis.xack(key('x'), 'group', '1-1'), 1);
  const events = reader.xread('BLOCK', 20000, 'STREAMS', key('x'), '$');
  await sleep(100);
  await redis.xadd(key('x'), '2-1', 'f', 'w');
  finding('xread', await events);
  reader.disconnect();
}

async function scripts(redis) {
  redis.defineCommand('add', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  await redis.script('FLUSH');
  finding('script', await redis.add(key('n'), 5), 5);
  await redis.script('FLUSH');
  finding('in a pipeline', (await redis.pipeline().add(key('n'), 1).add(key('n'), 1).exec()).map(([, value]) => value), [6, 7]);
  finding('in a transaction', (await redis.multi().add(key('n'), 1).get(key('n')).exec()).map(([, value]) => value), [8, '8']);
}

async function connections(redis) {
  finding('roles', await refused(async () => (await redis.role())[0]));
  const second = client({ db: 1, lazyConnect: true, retryStrategy: null });
  // It shows the refusal as an event, and goes on in the first database.
  finding('another database', await second.connect().then(() => second.get(key('a'))));
  second.disconnect();
  const piped = client({ enableAutoPipelining: true, connectionName: 'piped' });
  const increments = Array.from({ length: 50 }, (_, n) => piped.incr(key(`auto:${n}`)));
  finding('auto-pipelined', await Promise.all(increments), Array(50).fill(1));
  finding('kill', await redis.client('KILL', 'ID', await piped.client('ID')), 1);
  finding('after a kill', await piped.get(key('none')), null);
  piped.disconnect();
  const lists = client({ keyPrefix: prefix });
  finding('key prefix', [await lists.set('prefixed', 1), await redis.get(key('prefixed'))], ['OK', '1']);
  lists.disconnect();
}

async function main() {
  const redis = client();
  await redis.flushall();
  const seven = !/redis_version:6/.test(await redis.info('server'));
  await transactions(redis);
  await publishAndSubscribe(redis, seven);
  await blocking(redis);
  await streams(redis);
  await scripts(redis);
  await connections(redis);
  const watcher = redis.duplicate();
  const monitor = await watcher.monitor();
  const seen = new Promise((resolve) => {
    monitor.on('monitor', (_, args) => { if (args[1] === key('monitored')) resolve(args); });
  });
  await redis.set(key('monitored'), 1);
  finding('monitor', await seen);
  monitor.disconnect();
  watcher.disconnect();
  await redis.quit();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
