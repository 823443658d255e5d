// As bullmq/bench.mjs, with pg-boss.

import PgBoss from "pg-boss";
import { lanes } from "../lanes.mjs";

// The shortest that it takes.
const POLLING_SECONDS = 0.5;

const [port, task, ...pace] = process.argv.slice(2);
const lanesAtOnce = Number(pace[0]);
const data = { message: "j".repeat(256) };

const boss = new PgBoss({
  connectionString: `postgres://postgres@127.0.0.1:${port}/postgres`,
  // As many connections as requests may be in flight.
  max: lanesAtOnce + 4,
  // Nothing is looked after meanwhile.
  supervise: false,
  schedule: false,
});
boss.on("error", (error) => {
  throw error;
});
await boss.start();
await boss.createQueue("bench");

let step;
if (task === "submits") {
  step = () => boss.send("bench", data);
} else {
  const waiting = new Map();
  const options = {
    batchSize: lanesAtOnce,
    pollingIntervalSeconds: POLLING_SECONDS,
    includeMetadata: false,
  };
  await boss.work("bench", options, async (jobs) => {
    for (const job of jobs) waiting.get(job.id)?.();
    return jobs.map((job) => job.data);
  });
  step = async () => {
    const id = crypto.randomUUID();
    const handled = new Promise((resolve) => waiting.set(id, resolve));
    await boss.send("bench", data, { id });
    await handled;
    waiting.delete(id);
    for (;;) {
      const { state } = await boss.getJobById("bench", id);
      if (state === "completed") break;
      if (state === "failed") throw new Error("a job failed");
    }
  };
}

console.log(await lanes(step, ...pace.map(Number)));
process.exit(0);
