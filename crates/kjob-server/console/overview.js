// What the server does, and did in the last hours.

import { Chart } from "./charts.js";
import { brief, count, duration, short } from "./format.js";
import { askJson, me } from "./session.js";
import { useValue } from "./store.js";
import { html, useEffect, useState } from "./view.js";

const REFRESH_MS = 5_000;
const SLOTS_MIN = 30;
const SPANS = [["hour", "Last hour"], ["day", "Last day"]];

export function Overview() {
  const caller = useValue(me);
  const [span, setSpan] = useState("hour");
  const [told, setTold] = useState(null);
  const [error, setError] = useState(null);
  const [at, setAt] = useState(null);
  const may = caller?.may_see_history;
  useEffect(() => {
    if (!may) return undefined;
    const ending = new AbortController();
    let timer;
    const look = async () => {
      if (!document.hidden) {
        try {
          setTold(sinceStart(await askJson(`console/history?span=${span}`, { signal: ending.signal })));
          setError(null);
        } catch (failure) {
          if (ending.signal.aborted) return;
          setError(failure.message);
        }
      }
      timer = setTimeout(look, span === "hour" ? REFRESH_MS : 4 * REFRESH_MS);
    };
    look();
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [span, may]);
  if (!may) {
    return html`<section class="sheet"><h1>Overview</h1><p class="note">What all jobs do together is shown to admins.</p></section>`;
  }
  return html`<section class="sheet wide" aria-label="Overview">
    <header class="title"><h1>Overview</h1>
      <div class="tabs" role="group" aria-label="Time">${SPANS.map(([value, word]) => html`<button key=${value} type="button"
        aria-pressed=${String(span === value)} onClick=${() => { setAt(null); setSpan(value); }}>${word}</button>`)}</div>
    </header>
    ${error && html`<p class="problem" role="alert">${error}</p>`}
    ${told ? html`<${Tiles} told=${told} /><${Charts} told=${told} at=${at} onAt=${setAt} />` : html`<p class="note" role="status">Loading …</p>`}
  </section>`;
}

/** Without the time before the server was started; but for a few slots, so that there is something to be seen. */
function sinceStart(told) {
  const first = told.submitted.findIndex((value) => value !== null);
  const cut = Math.max(0, Math.min(first < 0 ? 0 : first, told.submitted.length - SLOTS_MIN));
  const numbers = Object.entries(told).map(([name, values]) => [name, Array.isArray(values) ? values.slice(cut) : values]);
  return { ...Object.fromEntries(numbers), begin: told.begin + cut * told.slot_seconds };
}

function Tiles({ told }) {
  const now = (name) => told[name].at(-1) ?? 0;
  // Of the last five minutes, without the slot that has only begun.
  const slots = Math.max(1, Math.round(300 / told.slot_seconds));
  const sum = (name) => told[name].slice(-slots - 1, -1).reduce((all, value) => all + (value ?? 0), 0);
  const ended = sum("done") + sum("failed") + sum("cancelled");
  const tiles = [
    ["Queued", count(now("queued")), "now"],
    ["Running", count(now("running")), "now"],
    ["Submitted", short(sum("submitted") / 5), "per minute"],
    ["Ended", short(ended / 5), "per minute"],
    ["Errors", ended ? `${short((100 * sum("failed")) / ended)} %` : "–", "of ended jobs"],
  ];
  return html`<dl class="tiles">${tiles.map(([name, value, unit]) => html`<div key=${name} class="tile">
    <dt>${name}</dt><dd><b>${value}</b> <span class="unit">${unit}</span></dd></div>`)}</dl>`;
}

function Charts({ told, at, onAt }) {
  const common = { begin: told.begin * 1000, slotMs: told.slot_seconds * 1000, at, onAt };
  // The last slot has only begun, so nothing can be said of how much there is in a second of it.
  const isBegun = (slot) => slot === told.submitted.length - 1;
  const rate = (name) => told[name].map((value, slot) => (value === null || isBegun(slot) ? null : value / told.slot_seconds));
  const line = (name, className, values) => ({ name, className, values });
  return html`<div class="charts">
    <${Chart} ...${common} title="Throughput" unit="jobs a second" format=${short} series=${[
      line("submitted", "series-1", rate("submitted")), line("done", "series-2", rate("done")),
      line("failed", "series-3", rate("failed")), line("cancelled", "series-4", rate("cancelled"))]} />
    <${Chart} ...${common} title="Queue" unit="jobs" format=${short} series=${[
      line("queued", "series-1", told.queued), line("running", "series-2", told.running)]} />
    <${Chart} ...${common} title="Wait" unit="from submit to start" format=${duration} formatTick=${brief} isLog=${true} series=${[
      line("median", "series-1", told.wait_p50_ms), line("99th percentile", "series-3", told.wait_p99_ms)]} />
    <${Chart} ...${common} title="Run" unit="from start to end" format=${duration} formatTick=${brief} isLog=${true} series=${[
      line("median", "series-1", told.run_p50_ms), line("99th percentile", "series-3", told.run_p99_ms)]} />
  </div>`;
}
