// Server-sent events, read by `fetch`: `EventSource` cannot send credentials in a header.

import { Failure, ask } from "./session.js";

const RETRY_MS = 2_000;
const RETRY_MS_MAX = 30_000;

/**
 * Follows a stream until the returned function is called, the stream says that there is nothing more (204), or the
 * server refuses. `on` has `event(name, data)`, and may have `state("live" | "waiting" | "ended" | "refused")`.
 */
export function follow(path, on) {
  const ending = new AbortController();
  run(path, on, ending.signal);
  return () => ending.abort();
}

async function run(path, on, signal) {
  let pause = RETRY_MS;
  let lastId = null;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream" };
      if (lastId !== null) headers["Last-Event-ID"] = lastId;
      const answer = await ask(path, { headers, signal });
      if (answer.status === 204) {
        on.state?.("ended");
        return;
      }
      on.state?.("live");
      pause = RETRY_MS;
      for await (const event of eventsOf(answer.body)) {
        if (signal.aborted) return;
        if (event.id !== null) lastId = event.id;
        on.event(event.name, JSON.parse(event.data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Failure && error.status < 500 && error.status !== 429) {
        on.state?.("refused", error);
        return;
      }
    }
    if (signal.aborted) return;
    on.state?.("waiting");
    await wait(pause * (0.75 + Math.random() / 2), signal);
    pause = Math.min(pause * 2, RETRY_MS_MAX);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = parsed(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  let [id, name, data] = [null, "message", null];
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    if (at <= 0) continue;
    const value = line.slice(at + 1).replace(/^ /, "");
    const field = line.slice(0, at);
    if (field === "id") id = value;
    else if (field === "event") name = value;
    else if (field === "data") data = data === null ? value : `${data}\n${value}`;
  }
  return data === null ? null : { id, name, data };
}

function wait(millis, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, millis);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
