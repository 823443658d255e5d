// Submits jobs to BullMQ, or lives whole lives of them, and prints how many ended and how long they took:
//
//     node bench.mjs PORT submits|lives LANES WARM_UP_MS TIME_MS   ->   COUNT P50_NANOS P99_NANOS
//
// A lane has one job in flight. Producer, worker and what waits for results are one process, as one program
// would have them.

import { Queue, QueueEvents, Worker } from "bullmq";
import { lanes } from "../lanes.mjs";

const [port, task, ...pace] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };
const data = { message: "j".repeat(256) };

const queue = new Queue("bench", { connection });
await queue.waitUntilReady();

let step;
const others = [];
if (task === "submits") {
  step = () => queue.add("echo", data);
} else {
  const concurrency = Number(pace[0]);
  const worker = new Worker("bench", async (job) => job.data, { connection, concurrency });
  const events = new QueueEvents("bench", { connection });
  // Each lane listens for its own job.
  for (const emitter of [queue, worker, events]) emitter.setMaxListeners(0);
  await Promise.all([worker.waitUntilReady(), events.waitUntilReady()]);
  others.push(worker, events);
  step = async () => {
    const job = await queue.add("echo", data);
    const result = await job.waitUntilFinished(events);
    if (result.message !== data.message) throw new Error("another result");
  };
}

console.log(await lanes(step, ...pace.map(Number)));
// What is open does not have to be closed politely: the server is about to be ended.
process.exit(0);
