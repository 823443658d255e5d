// As bullmq/bench.mjs, with graphile-worker.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { lanes } from "../lanes.mjs";

const [port, task, ...pace] = process.argv.slice(2);
const lanesAtOnce = Number(pace[0]);
const data = { message: "j".repeat(256) };

// As many connections as requests may be in flight: those of lanes, and those of the worker.
const pgPool = new pg.Pool({
  connectionString: `postgres://postgres@127.0.0.1:${port}/postgres`,
  max: 2 * lanesAtOnce + 4,
});
// A lost connection fails a query soon enough.
pgPool.on("error", () => {});
pgPool.on("connect", (client) => client.on("error", () => {}));
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ pgPool, logger });
await utils.migrate();

let step;
if (task === "submits") {
  step = () => utils.addJob("echo", data);
} else {
  // Jobs that are done are deleted, and the worker tells so in its own process.
  const waiting = new Map();
  const done = new Set();
  const runner = await run({
    pgPool,
    logger,
    concurrency: lanesAtOnce,
    noHandleSignals: true,
    // What its documentation advises where jobs are many: they are fetched and completed in batches.
    preset: {
      worker: {
        localQueue: { size: 2 * lanesAtOnce },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    taskList: {
      echo: async (payload) => {
        if (payload.message !== data.message) throw new Error("another payload");
      },
    },
  });
  runner.events.on("job:complete", ({ job, error }) => {
    if (error) throw error;
    const resolve = waiting.get(job.id);
    if (resolve) resolve();
    else done.add(job.id);
  });
  step = async () => {
    const { id } = await utils.addJob("echo", data);
    if (done.delete(id)) return;
    await new Promise((resolve) => waiting.set(id, resolve));
    waiting.delete(id);
  };
}

console.log(await lanes(step, ...pace.map(Number)));
process.exit(0);
