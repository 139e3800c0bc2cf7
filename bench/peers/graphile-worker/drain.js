// Graphile Worker as its users run it, with the batching that its page on performance measures with.
//
//   node drain.js fill URL JOBS     migrates, and adds the jobs in batches
//   node drain.js drain URL JOBS    runs them, and prints the seconds until all are done and forgotten

import { Logger, makeWorkerUtils, run } from "graphile-worker";

const BATCH = 1000;
// In hand at a time; `drain` runs 24 of them at once, in one thread.
const LOCAL_QUEUE = 500;
const TASK = "bench";
const logger = new Logger(() => () => {});

const [verb, connectionString, count] = process.argv.slice(2);
const jobs = Number(count);

async function fill() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  for (let from = 0; from < jobs; from += BATCH) {
    const part = Math.min(BATCH, jobs - from);
    const specs = Array.from({ length: part }, (_, nth) => ({
      identifier: TASK,
      payload: { number: from + nth, text: "x".repeat(180) },
    }));
    await utils.addJobs(specs);
  }
  await utils.release();
}

async function drain() {
  let left = jobs;
  let finish;
  const finished = new Promise((resolve) => (finish = resolve));
  const began = performance.now();
  const runner = await run({
    preset: {
      worker: {
        connectionString,
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: LOCAL_QUEUE },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger,
      },
    },
    noHandleSignals: true,
    taskList: {
      [TASK]: async () => {
        left -= 1;
        if (left === 0) finish();
      },
    },
  });
  await finished;
  // Waits until what is done is forgotten in the database too.
  await runner.stop();
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }));
}

await (verb === "fill" ? fill() : drain());
