"""As bullmq/bench.mjs, with RQ: lanes are threads, and workers processes, one for each processor."""

import os
import subprocess
import sys
import threading
import time

from redis import Redis
from rq import Queue, Worker

MESSAGE = "j" * 256

# How long a job may take.
TIMEOUT_SECONDS = 60


def main():
    port, task = sys.argv[1:3]
    lanes, warm_up, span = (int(word) for word in sys.argv[3:])
    url = f"redis://127.0.0.1:{port}"
    workers = [] if task == "submits" else start_workers(url)
    try:
        took = load(url, task, lanes, warm_up / 1e3, span / 1e3)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    took.sort()
    quantiles = [took[int((len(took) - 1) * share)] if took else 0 for share in (0.5, 0.99)]
    print(len(took), *quantiles)


def start_workers(url):
    """Workers that run jobs in their own process; the usual ones fork for each."""
    words = ["-m", "rq.cli", "worker", "--quiet", "--worker-class", "rq.SimpleWorker", "--url", url, "bench"]
    workers = [subprocess.Popen([sys.executable, *words]) for _ in range(os.cpu_count())]
    while Worker.count(connection=Redis.from_url(url)) < len(workers):
        time.sleep(0.05)
    return workers


def load(url, task, lanes, warm_up, span):
    """Nanoseconds that each took which ended in the span."""
    took = []
    begin = time.perf_counter_ns() + int(warm_up * 1e9)
    end = begin + int(span * 1e9)

    def lane():
        queue = Queue("bench", connection=Redis.from_url(url))
        begun = time.perf_counter_ns()
        while begun < end:
            job = queue.enqueue("echo.echo", MESSAGE)
            if task == "lives":
                result = job.latest_result(timeout=TIMEOUT_SECONDS)
                if result is None or result.return_value != MESSAGE:
                    os._exit(1)
            ended = time.perf_counter_ns()
            if begin <= ended < end:
                took.append(ended - begun)
            begun = ended

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


if __name__ == "__main__":
    main()
