// A process that uses BullMQ as its applications do: one JSON command a line comes in, answers and
// what workers and listeners see go out, one JSON object a line.
import { createInterface } from 'node:readline';

const { Queue, QueueEvents, Worker } = await import(process.env.BULLMQ);

const url = new URL(process.env.REDIS_URL);
const connection = {
  host: url.hostname,
  port: Number(url.port),
  username: decodeURIComponent(url.username) || undefined,
  password: decodeURIComponent(url.password) || undefined,
  maxRetriesPerRequest: null,
};
const prefix = process.env.PREFIX;
const queues = new Map();

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const fault = (error) => say({ event: 'error', error: String(error) });

async function queue(name) {
  if (!queues.has(name)) {
    const made = new Queue(name, { connection, prefix });
    made.on('error', fault);
    queues.set(name, made);
    await made.getVersion();
  }
  return queues.get(name);
}

const commands = {
  /** Runs jobs; each fails as often as `fails` says. */
  async work({ queue, fails = 0, options = {} }) {
    const run = async (job) => {
      const { id, name, data, attemptsMade } = job;
      say({ event: 'run', id, name, data, attemptsMade, at: Date.now() });
      if (attemptsMade < fails) throw new Error('as it was told');
    };
    const worker = new Worker(queue, run, { connection, prefix, ...options });
    worker.on('error', fault);
    worker.on('completed', ({ id }) => say({ event: 'done', id }));
    worker.on('failed', ({ id, attemptsMade, delay }) =>
      say({ event: 'failed', id, attemptsMade, delay }));
    await worker.waitUntilReady();
  },

  /** Listens from the first event on. */
  async listen({ queue }) {
    const events = new QueueEvents(queue, { connection, prefix, lastEventId: '0' });
    events.on('error', fault);
    const names = ['added', 'waiting', 'delayed', 'duplicated', 'active', 'completed', 'failed',
      'paused', 'resumed'];
    for (const told of names) events.on(told, (args) => say({ event: 'told', told, ...args }));
    await events.waitUntilReady();
  },

  async call({ queue: name, method, args = [] }) {
    return (await queue(name))[method](...args);
  },

  async ofJob({ queue: name, id, method, args = [] }) {
    const job = await (await queue(name)).getJob(id);
    return job[method](...args);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ answer: (await commands[command.do](command)) ?? null });
  } catch (error) {
    say({ refused: String(error) });
  }
}
process.exit(0);
