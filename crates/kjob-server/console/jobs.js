// The list of jobs. Of however many there are, those are in the page that one sees.

import { absolute, asMillis, count, duration, relative } from "./format.js";
import { Phase } from "./icons.js";
import { Listing, ROWS_MAX, filterOf } from "./listing.js";
import { address, go, lastList, requery } from "./route.js";
import { me } from "./session.js";
import { useNow, useValue } from "./store.js";
import { cancelJob } from "./job.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./view.js";

const STATUSES = [["RUNNING", "Running"], ["DONE", "Done"], ["ERROR", "Error"], ["CANCELLED", "Cancelled"]];
const TIMES = [
  ["", "any time"], ["15m", "last 15 minutes"], ["1h", "last hour"], ["6h", "last 6 hours"], ["1d", "last day"],
  ["7d", "last 7 days"], ["between", "between …"],
];
/** Rows that are drawn above and below what is seen. */
const MARGIN = 12;
/** How near to the last row one is when the next page is asked for. */
const AHEAD = 400;

export function Jobs({ query }) {
  const text = query.toString();
  const filter = useMemo(() => filterOf(new URLSearchParams(text)), [text]);
  const [listing, setListing] = useState(null);
  useEffect(() => {
    lastList.set(address("/", query));
    const begun = new Listing(filter);
    setListing(begun);
    return () => begun.end();
  }, [text]);
  return html`<section class="jobs" aria-label="Jobs">
    <h1 class="unseen">Jobs</h1>
    <${Filters} query=${query} />
    ${listing && html`<${Grid} key=${text} listing=${listing} isFiltered=${text !== ""} />`}
  </section>`;
}

function Filters({ query }) {
  const caller = useValue(me);
  const statuses = (query.get("status") ?? "").split(",").filter(Boolean);
  const change = (name, value) => {
    const next = new URLSearchParams(query);
    if (value) next.set(name, value);
    else next.delete(name);
    requery("/", next);
  };
  const toggle = (status) => {
    const next = statuses.includes(status) ? statuses.filter((it) => it !== status) : [...statuses, status];
    change("status", next.join(","));
  };
  const [isBetween, setBetween] = useState(query.has("since") || query.has("until"));
  const within = isBetween ? "between" : query.get("within") ?? "";
  const chooseTime = (event) => {
    const value = event.currentTarget.value;
    const next = new URLSearchParams(query);
    ["within", "since", "until"].forEach((name) => next.delete(name));
    if (value && value !== "between") next.set("within", value);
    setBetween(value === "between");
    requery("/", next);
  };
  const isAdmin = caller?.role === "admin" && caller.accounts !== "none";
  return html`<form class="filters" role="search" aria-label="Filter jobs" onSubmit=${(event) => event.preventDefault()}>
    <fieldset class="chips">
      <legend class="unseen">Status</legend>
      ${STATUSES.map(([status, word]) => html`<button key=${status} type="button" class="chip chip-${status}"
        aria-pressed=${String(statuses.includes(status))} onClick=${() => toggle(status)}>${word}</button>`)}
    </fieldset>
    <${Field} id="filter-endpoint" label="Endpoint" placeholder="/endpoint" list="endpoints" value=${query.get("endpoint")}
      onValue=${(value) => change("endpoint", value)} />
    ${isAdmin && html`<${Field} id="filter-owner" label="Owner" placeholder="owner" value=${query.get("owner")}
      onValue=${(value) => change("owner", value)} />`}
    <${Field} id="filter-tag" label="Tag" placeholder="tag" title=${isAdmin ? "A tag is its owner's: for another's, give the owner as well" : undefined} value=${query.get("tag")}
      onValue=${(value) => change("tag", value)} />
    <label class="field"><span class="unseen">Submitted</span>
      <select value=${within} onChange=${chooseTime}>
        ${TIMES.map(([value, word]) => html`<option key=${value} value=${value} selected=${value === within}>${word}</option>`)}
      </select>
    </label>
    ${isBetween && html`<${Moment} label="from" value=${query.get("since")} onValue=${(value) => change("since", value)} />
      <${Moment} label="to" value=${query.get("until")} onValue=${(value) => change("until", value)} />`}
    ${[...query].length > 0 && html`<button type="button" class="plain" onClick=${() => {
      setBetween(false);
      requery("/");
    }}>Clear</button>`}
    <datalist id="endpoints">
      ${caller?.endpoints.filter((it) => !it.endsWith("*")).map((it) => html`<option key=${it} value=${it} />`)}
    </datalist>
  </form>`;
}

/** A text that counts once it is left, or by Enter. */
function Field({ id, label, value, onValue, ...rest }) {
  const [text, setText] = useState(value ?? "");
  useEffect(() => setText(value ?? ""), [value]);
  const done = () => text.trim() !== (value ?? "") && onValue(text.trim());
  return html`<label class="field"><span class="unseen">${label}</span>
    <input id=${id} type="text" value=${text} autocomplete="off" spellcheck=${false} maxlength="1024" ...${rest}
      onInput=${(event) => setText(event.currentTarget.value)} onChange=${done}
      onKeyDown=${(event) => {
        if (event.key === "Enter") done();
        if (event.key === "Escape") {
          setText(value ?? "");
          document.getElementById("grid")?.focus();
        }
      }} />
  </label>`;
}

/** A moment in the local time, told as one in UTC. */
function Moment({ label, value, onValue }) {
  const local = value ? new Date(Date.parse(value) - new Date(value).getTimezoneOffset() * 6e4).toISOString().slice(0, 16) : "";
  return html`<label class="field"><span class="label">${label}</span>
    <input type="datetime-local" value=${local}
      onChange=${({ currentTarget }) => onValue(currentTarget.value && new Date(currentTarget.value).toISOString())} />
  </label>`;
}

function Grid({ listing, isFiltered }) {
  useValue(listing.changed);
  const now = useNow(5_000);
  const caller = useValue(me);
  const scroller = useRef();
  const [view, setView] = useState({ top: 0, height: 600, row: 34 });
  const [selected, setSelected] = useState(null);
  const { rows, held } = listing;
  const hasOwners = caller?.accounts !== "none" && caller?.role === "admin";

  const measure = () => {
    const element = scroller.current;
    if (!element) return;
    const row = parseFloat(getComputedStyle(element).getPropertyValue("--row")) || 34;
    const top = element.scrollTop;
    const next = { top: Math.floor(top / row) * row, height: element.clientHeight, row };
    listing.isAtTop = top < row;
    if (listing.isAtTop && (listing.held.length > 0 || listing.isBehind)) listing.show();
    setView((old) => (old.top === next.top && old.height === next.height && old.row === next.row ? old : next));
  };
  useLayoutEffect(() => {
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(scroller.current);
    return () => watch.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(view.top / view.row) - MARGIN);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / view.row) + MARGIN);
  useEffect(() => {
    if (last > rows.length - AHEAD && !listing.error) listing.more();
  });

  const at = selected === null ? -1 : rows.findIndex((job) => job.job_id === selected);
  const select = (index) => {
    const job = rows[Math.min(Math.max(index, 0), rows.length - 1)];
    if (!job) return;
    setSelected(job.job_id);
    reveal(scroller.current, rows.indexOf(job) * view.row, view.row);
  };
  const open = (job) => job && go(`/jobs/${job.job_id}`);
  const onKeyDown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(view.height / view.row) - 1);
    const moves = {
      j: at + 1, ArrowDown: at + 1, k: Math.max(at, 1) - 1, ArrowUp: Math.max(at, 1) - 1,
      PageDown: Math.max(at, 0) + page, PageUp: at - page, Home: 0, End: rows.length - 1,
    };
    if (event.key in moves) select(moves[event.key]);
    else if (event.key === "Enter") open(rows[at]);
    else if (event.key === "c" && rows[at]?.status === "RUNNING" && caller?.may_cancel) {
      cancelJob(rows[at]).then((job) => job && listing.replace(job));
    } else return;
    event.preventDefault();
  };
  const isShown = at >= first && at < last;
  const cells = { now, hasOwners, selected, setSelected, open };
  return html`<div class="list ${hasOwners ? "has-owners" : ""}">
    <div class="status-line">
      <${Stream} state=${listing.state} />
      <span role="status">${summary(listing)}</span>
      ${(held.length > 0 || listing.isBehind) && html`<button type="button" class="new" onClick=${() => {
        scroller.current.scrollTop = 0;
        listing.show();
      }}>${count(held.length)}${listing.isBehind && "+"} new ↑</button>`}
      <span class="keys" aria-hidden="true"><kbd>/</kbd> filter <kbd>j</kbd><kbd>k</kbd> move <kbd>Enter</kbd> open <kbd>c</kbd> cancel</span>
    </div>
    ${listing.error && html`<p class="problem" role="alert">${listing.error.message}
      <button type="button" onClick=${() => { listing.error = null; listing.more(); }}>Try again</button></p>`}
    <div class="grid" id="grid" role="grid" aria-label="Jobs, newest first" tabindex="0" ref=${scroller}
        aria-rowcount=${listing.isWhole ? rows.length + 1 : -1} aria-colcount=${hasOwners ? 7 : 6} onScroll=${measure} onKeyDown=${onKeyDown}
        aria-activedescendant=${isShown ? `job-${selected}` : undefined}
        onFocus=${() => selected === null && rows[0] && setSelected(rows[first > 0 ? first + MARGIN : 0]?.job_id ?? null)}>
      <div class="head" role="row" aria-rowindex="1">
        <span role="columnheader">Status</span><span role="columnheader" class="number">Job</span>
        <span role="columnheader">Endpoint</span><span role="columnheader">Tag</span>
        ${hasOwners && html`<span role="columnheader">Owner</span>`}
        <span role="columnheader">Progress</span><span role="columnheader" class="number">Submitted</span>
      </div>
      <${Spacer} rows=${rows.length} row=${view.row}>
        ${rows.slice(first, last).map((job, index) => html`<${Row} key=${job.job_id} job=${job} index=${first + index} row=${view.row} ...${cells} />`)}
      <//>
      ${rows.length === 0 && !listing.isLoading && !listing.error && html`<${Empty} isFiltered=${isFiltered} />`}
    </div>
  </div>`;
}

/** As high as all rows together. Heights are set by script: the page's policy allows no styles in markup. */
function Spacer({ rows, row, children }) {
  return html`<div class="spacer" role="rowgroup" style=${{ height: `${rows * row}px` }}>${children}</div>`;
}

function Row({ job, index, row, now, hasOwners, selected, setSelected, open }) {
  const isSelected = job.job_id === selected;
  return html`<div class="row ${isSelected ? "is-selected" : ""}" role="row" id="job-${job.job_id}" aria-rowindex=${index + 2}
      aria-selected=${String(isSelected)} style=${{ transform: `translateY(${index * row}px)` }}
      onMouseDown=${() => setSelected(job.job_id)}
      onClick=${(event) => event.target.closest("a") || open(job)}>
    <span role="gridcell" class="cell-phase"><${Phase} of=${job.phase} /></span>
    <span role="gridcell" class="cell-id number"><a href=${address(`/jobs/${job.job_id}`)} tabindex="-1">${job.job_id}</a></span>
    <span role="gridcell" class="cell-endpoint" title=${job.endpoint}>${job.endpoint}</span>
    <span role="gridcell" class="cell-tag" title=${job.job_tag}>${job.job_tag}</span>
    ${hasOwners && html`<span role="gridcell" class="cell-owner" title=${job.owner}>${job.owner}</span>`}
    <span role="gridcell" class="cell-progress"><${Course} job=${job} now=${now} /></span>
    <span role="gridcell" class="cell-time number" title=${absolute(job.time_received)}>${relative(job.time_received, now)}</span>
  </div>`;
}

/** How far a job is, how long it took, or why it failed. */
function Course({ job, now }) {
  if (job.phase === "running" || job.phase === "cancelling") {
    const title = job.time_started ? `for ${duration(now - asMillis(job.time_started))}` : "";
    return html`<progress max="100" value=${job.progress} aria-label="Progress" title=${title}></progress>
      <span class="percent">${job.progress} %</span>`;
  }
  if (job.phase === "failed") return html`<span class="why" title=${job.error}>${job.error}</span>`;
  if (job.time_started && job.time_ended) {
    return html`<span class="took">${duration(asMillis(job.time_ended) - asMillis(job.time_started))}</span>`;
  }
  return null;
}

function Stream({ state }) {
  const [word, title] = {
    live: ["Live", "Changes show as they happen"],
    waiting: ["Reconnecting", "The server cannot be reached; tried again in a moment"],
    refused: ["Not live", "The server tells of no changes; the list is asked for now and then"],
  }[state] ?? ["Connecting", ""];
  return html`<span class="stream stream-${state ?? "waiting"}" title=${title}>${word}</span>`;
}

function summary({ rows, isWhole, isLoading }) {
  if (rows.length === 0) return isLoading ? "Loading …" : "";
  if (isWhole) return `${count(rows.length)} ${rows.length === 1 ? "job" : "jobs"}`;
  if (rows.length >= ROWS_MAX) return `the newest ${count(rows.length)} jobs; older ones by a filter`;
  return `${count(rows.length)} loaded, more below`;
}

function Empty({ isFiltered }) {
  return isFiltered
    ? html`<div class="empty"><p>No job matches these filters.</p>
        <button type="button" onClick=${() => requery("/")}>Clear filters</button></div>`
    : html`<div class="empty"><p>No jobs yet.</p><a class="button" href=${address("/submit")}>Submit the first one</a></div>`;
}

/** Scrolls no further than it takes to see a row. The head of the list lies over its first row's height. */
function reveal(scroller, top, height) {
  const head = scroller.querySelector(".head").offsetHeight;
  const below = top + height + head - scroller.clientHeight;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (below > scroller.scrollTop) scroller.scrollTop = below;
}
