// BullMQ: node bullmq.cjs HOST PORT DRIVER PREFIX [PATIENCE_MS]. DRIVER is ioredis or redis, PREFIX `-` leaves BullMQ's own.
// Prints one line a finding, the same against any server that looks like a standalone one; what raises, or does not come in
// time, is a finding that begins with "failed".
const { Queue, Worker, QueueEvents, FlowProducer } = require('bullmq');

const [host, port, driver, prefix, patience = '20000'] = process.argv.slice(2);
const common = prefix === '-' ? {} : { prefix };
const clients = [];
let failed = 0;

function connection() {
  if (driver === 'ioredis') return { host, port: Number(port), maxRetriesPerRequest: null };
  const client = require('redis').createClient({ socket: { host, port: Number(port) }, RESP: 2 });
  client.on('error', () => {});
  clients.push(client);
  return client;
}

function timely(promise, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what} in vain`)), Number(patience)); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function finding(name, call) {
  try {
    console.log(`${name}: ${JSON.stringify(await timely(call(), name))}`);
  } catch (error) {
    failed += 1;
    console.log(`failed, ${name}: ${error.message}`);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(probe) {
  for (const end = Date.now() + Number(patience); Date.now() < end; await sleep(50)) {
    const found = await probe();
    if (found) return found;
  }
  throw new Error('waited in vain');
}

const order = [];

async function work(job) {
  order.push(job.name);
  if (job.name === 'fail') throw new Error('on purpose');
  if (job.name === 'flaky' && job.attemptsMade < 2) throw new Error('not yet');
  if (job.name === 'slow') {
    await job.updateProgress(50);
    await job.log('half way');
    await sleep(200);
  }
  if (job.name === 'parent') return Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0);
  return job.data.n * 2;
}

async function withWorker(queue, events, worker) {
  const done = async (job) => job.waitUntilFinished(events, Number(patience));
  await finding('in the order of priority', async () => until(() => order.length >= 4 && order.slice(0, 4)));
  await finding('result', async () => done(await queue.add('double', { n: 21 })));
  const thirty = Array.from({ length: 30 }, (_, n) => ({ name: 'double', data: { n } }));
  await finding('many', async () => Promise.all((await queue.addBulk(thirty)).map(done)));
  await finding('failure', async () => done(await queue.add('fail', {})).catch((error) => error.message));
  const thrice = { attempts: 3, backoff: { type: 'fixed', delay: 50 } };
  await finding('attempts', async () => done(await queue.add('flaky', { n: 1 }, thrice)));
  await finding('delayed', async () => {
    const started = Date.now();
    const result = await done(await queue.add('double', { n: 5 }, { delay: 500 }));
    return [result, Date.now() - started >= 450];
  });
  await finding('progress', async () => {
    const heard = new Promise((resolve) => { events.once('progress', ({ data }) => resolve(data)); });
    const job = await queue.add('slow', { n: 3 });
    return [await heard, await done(job), (await queue.getJobLogs(job.id)).logs];
  });
  await finding('repeated', async () => {
    await queue.upsertJobScheduler('every', { every: 200 }, { name: 'tick', data: { n: 1 } });
    await until(() => order.filter((name) => name === 'tick').length >= 3);
    return [(await queue.getJobSchedulers()).map(({ key, every }) => [key, every]), await queue.removeJobScheduler('every')];
  });
  await finding('flow', async () => {
    const flows = new FlowProducer({ connection: connection(), ...common });
    const children = [1, 2, 3].map((n) => ({ name: 'double', queueName: queue.name, data: { n } }));
    const { job } = await flows.add({ name: 'parent', queueName: queue.name, data: {}, children });
    const result = await done(job);
    await flows.close();
    return result;
  });
  await finding('twice the same id', async () => {
    const add = () => queue.add('slow', { n: 1 }, { jobId: 'only' });
    const [one, two] = [await add(), await add()];
    return [one.id === two.id, await done(one)];
  });
  await finding('workers', async () => until(async () => (await queue.getWorkersCount()) === 1));
  await finding('paused', async () => {
    await queue.pause();
    const job = await queue.add('double', { n: 8 });
    await sleep(200);
    const state = await job.getState();
    await queue.resume();
    return [state, await done(job)];
  });
  await finding('retried', async () => {
    const job = (await queue.getFailed()).find(({ name }) => name === 'fail');
    await job.retry();
    return until(async () => (await job.getState()) === 'failed');
  });
  await finding('counts', async () => {
    const counts = await queue.getJobCounts('completed', 'failed', 'waiting', 'active', 'paused');
    return [counts.completed > 40, counts.failed, counts.waiting, counts.active, counts.paused];
  });
  await finding('closed', async () => worker.close());
}

async function main() {
  const queue = new Queue('work', { connection: connection(), ...common });
  queue.on('error', () => {});
  await finding('emptied', async () => queue.obliterate({ force: true }));
  await finding('added', async () => {
    for (const [name, priority] of [['last', 30], ['second', 10], ['third', 20]]) await queue.add(name, { n: 1 }, { priority });
    await queue.add('first', { n: 1 });
    return [await queue.count(), await queue.getPrioritizedCount()];
  });
  const events = new QueueEvents('work', { connection: connection(), ...common });
  events.on('error', () => {});
  await finding('events', async () => events.waitUntilReady().then(() => 'ready'));
  const worker = new Worker('work', work, { connection: connection(), ...common, concurrency: 1 });
  worker.on('error', () => {});
  await withWorker(queue, events, worker);
  await finding('cleaned', async () => [await queue.drain(true), (await queue.clean(0, 1000, 'completed')).length > 40]);
  await finding('obliterated', async () => queue.obliterate({ force: true }));
  const closing = [events.close(), queue.close(), ...clients.map((client) => client.close())];
  await timely(Promise.allSettled(closing), 'closing').catch(() => {});
  process.exit(failed ? 1 : 0);
}

main();
