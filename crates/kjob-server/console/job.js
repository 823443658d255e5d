// The page of a job.

import { follow } from "./events.js";
import { absolute, asMillis, duration, relative } from "./format.js";
import { Icon, Phase } from "./icons.js";
import { isStale } from "./listing.js";
import { Preview } from "./result.js";
import { address, lastList } from "./route.js";
import { askJson, me } from "./session.js";
import { Value, useNow, useValue } from "./store.js";
import { html, useEffect, useRef, useState } from "./view.js";

/** What is said for a moment at the edge of the page. */
export const said = new Value(null);
/** What is asked before it is done: `{ id, text, action, done }`. */
export const asked = new Value(null);

let questions = 0;

const MOVES = { RUNNING: true };

/** Asks whether a job is to be cancelled, and does it; gives the job as it is then, or null. */
export async function cancelJob({ job_id: id, endpoint }) {
  const text = `Cancel job ${id}, a call of ${endpoint}?`;
  questions += 1;
  const isMeant = await new Promise((done) => asked.set({ id: questions, text, action: "Cancel the job", done }));
  if (!isMeant) return null;
  try {
    const job = await askJson(`jobs/${id}`, { method: "DELETE" });
    said.set(`Job ${id} ${job.phase === "cancelled" ? "is cancelled" : "was told to stop"}.`);
    return job;
  } catch (error) {
    said.set(error.message);
    return null;
  }
}

export function Job({ name }) {
  const [job, set] = useState(null);
  const setJob = (told) => set((known) => (known && isStale(known, told) ? known : told));
  const [error, setError] = useState(null);
  const [state, setState] = useState(null);
  useEffect(() => {
    let stop = () => {};
    const ending = new AbortController();
    const begin = async () => {
      try {
        const found = await askJson(`jobs/${name}`, { signal: ending.signal });
        setJob(found);
        if (!MOVES[found.status]) return;
        stop = follow(`jobs/${name}/events`, { event: (_, newer) => setJob(newer), state: setState });
      } catch (failure) {
        if (!ending.signal.aborted) setError(failure);
      }
    };
    begin();
    return () => {
      ending.abort();
      stop();
    };
  }, [name]);
  if (error) {
    return html`<section class="sheet"><${Back} /><h1>${error.status === 404 ? "No such job" : "The job cannot be shown"}</h1>
      <p class="problem" role="alert">${error.message}</p></section>`;
  }
  if (!job) return html`<section class="sheet"><${Back} /><p class="note" role="status">Loading …</p></section>`;
  return html`<${Sheet} job=${job} onJob=${setJob} isWaiting=${state === "waiting"} />`;
}

function Sheet({ job, onJob, isWaiting }) {
  const caller = useValue(me);
  const moves = MOVES[job.status];
  const now = useNow(moves ? 1_000 : 15_000);
  const cancel = async () => {
    const newer = await cancelJob(job);
    if (newer) onJob(newer);
  };
  useEffect(() => {
    const onKey = (event) => {
      if (event.key === "c" && isPlain(event) && moves && caller?.may_cancel) cancel();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [job.status, caller]);
  const ends = job.result_info ?? {};
  return html`<section class="sheet" aria-label="Job ${job.job_id}">
    <${Back} />
    <header class="title">
      <div>
        <h1><span class="endpoint">${job.endpoint}</span></h1>
        <p class="subtitle"><${Phase} of=${job.phase} /> <span>Job ${job.job_id}</span>
          ${isWaiting && html`<span class="stream stream-waiting">Reconnecting</span>`}</p>
      </div>
      <div class="actions">
        ${moves && caller?.may_cancel && html`<button type="button" class="danger" disabled=${job.phase === "cancelling"} onClick=${cancel}>
          ${job.phase === "cancelling" ? "Cancelling …" : "Cancel"}</button>`}
        ${caller?.may_submit && html`<a class="button" href=${address("/submit", { from: job.job_id })}>Submit again</a>`}
      </div>
    </header>
    ${moves && html`<div class="bar">
      <progress max="100" value=${job.progress} aria-label="Progress of the job"></progress>
      <span class="percent">${job.progress} %</span></div>`}
    <span class="unseen" role="status">${job.phase}</span>
    ${job.error !== undefined && html`<${Panel} name="Error" kind="error"><pre class="error" tabindex="0">${job.error}</pre><//>`}
    <div class="columns">
      <${Panel} name="Timeline"><${Timeline} job=${job} now=${now} /><//>
      <${Panel} name="Details"><${Details} job=${job} now=${now} /><//>
    </div>
    ${job.links.result && html`<${Panel} name="Result">
      <${Preview} path=${`jobs/${job.job_id}/result`} name=${`job-${job.job_id}-result${extension(job.result_encoding, ends.content_type)}`}
        isPacked=${ends.content_encoding} hasRecord=${job.result_encoding === "binary" && !ends.content_type} />
      ${Object.keys(ends).length > 0 && html`<dl class="facts">${Object.entries(ends).map(([key, value]) => html`<${Fact} key=${key} name=${key}>${value}<//>`)}</dl>`}
    <//>`}
    <${Folded} name="Payload">
      <${Preview} path=${`jobs/${job.job_id}/payload`} name=${`job-${job.job_id}-payload`} />
    <//>
    <${Panel} name="Log"><${Log} job=${job} /><//>
  </section>`;
}

const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.altKey) && !event.target.closest("input, textarea, select, dialog");

function Back() {
  return html`<nav class="back" aria-label="Back"><a href=${lastList.value}><${Icon} name="back" /> Jobs</a></nav>`;
}

function Panel({ name, kind, children }) {
  return html`<section class="panel ${kind ? `panel-${kind}` : ""}" aria-label=${name}><h2>${name}</h2>${children}</section>`;
}

/** A panel whose content is made once somebody opens it. */
function Folded({ name, children }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details class="panel" onToggle=${(event) => event.currentTarget.open && setOpen(true)}>
    <summary>${name}</summary>${isOpen && children}</details>`;
}

function Timeline({ job, now }) {
  const received = asMillis(job.time_received);
  const started = job.time_started && asMillis(job.time_started);
  const ended = job.time_ended && asMillis(job.time_ended);
  const steps = [["Submitted", received, null]];
  if (started) steps.push([job.attempt > 1 ? `Started, attempt ${job.attempt}` : "Started", started, `waited ${duration(started - received)}`]);
  if (ended) {
    const word = { done: "Done", failed: "Failed", cancelled: "Cancelled" }[job.phase];
    steps.push([word, ended, started ? `ran ${duration(ended - started)}` : `waited ${duration(ended - received)}`]);
  }
  const rests = !ended && (started ? `running for ${duration(now - started)}` : `waiting for ${duration(now - received)}`);
  const expires = job.time_expires && asMillis(job.time_expires);
  return html`<ol class="timeline">
    ${steps.map(([word, time, between]) => html`<li key=${word} class="step">
      ${between && html`<span class="between">${between}</span>`}
      <span class="what">${word}</span>
      <time datetime=${new Date(time).toISOString()} title=${relative(time, now)}>${absolute(time)}</time>
    </li>`)}
    ${rests && html`<li class="step step-open"><span class="what">${rests}</span></li>`}
    ${expires && html`<li class="step step-later"><span class="what">Dropped</span>
      <time datetime=${job.time_expires} title=${absolute(expires)}>${relative(expires, now)}</time></li>`}
  </ol>`;
}

function Details({ job }) {
  return html`<dl class="facts">
    <${Fact} name="Job id" copy=${String(job.job_id)}><span class="mono">${job.job_id}</span><//>
    <${Fact} name="Tag" copy=${job.job_tag}><span class="mono">${job.job_tag}</span><//>
    <${Fact} name="Query id" copy=${job.query_id}><span class="mono">${job.query_id}</span><//>
    <${Fact} name="Owner">${job.owner}<//>
    <${Fact} name="Priority">${job.priority}<//>
    <${Fact} name="Attempts">${job.attempt}<//>
    ${job.result_encoding && html`<${Fact} name="Result">${job.result_encoding}<//>`}
    ${job.user_data && html`<${Fact} name="User data">${job.user_data}<//>`}
  </dl>`;
}

function Fact({ name, copy, children }) {
  return html`<div class="fact"><dt>${name}</dt><dd>${children}${copy && html`<${Copy} text=${copy} name=${name} />`}</dd></div>`;
}

function Copy({ text, name }) {
  // Browsers let only pages of secure origins write to the clipboard.
  if (!navigator.clipboard) return null;
  return html`<button type="button" class="icon" aria-label="Copy the ${name.toLowerCase()}" title="Copy"
    onClick=${() => navigator.clipboard.writeText(text).then(() => said.set(`${name} copied.`), () => {})}><${Icon} name="copy" /></button>`;
}

function Log({ job }) {
  const [lines, setLines] = useState(null);
  // Anew when there is something new to be told of the job.
  const age = `${job.phase} ${job.attempt} ${job.progress}`;
  const last = useRef(0);
  useEffect(() => {
    const ending = new AbortController();
    // At once, but not more often than every second.
    const timer = setTimeout(() => {
      last.current = Date.now();
      askJson(`jobs/${job.job_id}/log`, { signal: ending.signal }).then((told) => setLines(told.lines), () => {});
    }, Math.max(0, last.current + 1_000 - Date.now()));
    return () => {
      clearTimeout(timer);
      ending.abort();
    };
  }, [age]);
  if (!lines) return html`<p class="note">Loading …</p>`;
  if (lines.length === 0) return html`<p class="note">Nothing was logged about this job, or it is no longer kept.</p>`;
  return html`<ol class="log" tabindex="0">${lines.map((line, index) => html`<li key=${index} class="line line-${line.level}">
    <time datetime=${line.time} title=${absolute(line.time)}>${line.time.slice(11, 23)}</time>
    <span class="level">${line.level}</span><span class="text">${line.text}</span></li>`)}</ol>`;
}

function extension(encoding, type) {
  if (encoding === "json" || /[/+]json/.test(type ?? "")) return ".json";
  return /^text\/plain/.test(type ?? "") ? ".txt" : ".bin";
}

