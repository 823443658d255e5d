// The jobs of a list, newest first: pages as they are wanted, and what the server says has changed.
//
// Rows are kept as long as the list is the same, few words each, up to a bound: a row that was scrolled past is
// there when one comes back.

import { follow } from "./events.js";
import { askJson } from "./session.js";
import { Value } from "./store.js";

/** The first page is to be there at once, the others are to be few. */
const FIRST_PAGE = 200;
const PAGE = 1_000;
/** How many rows are kept at most. Whoever looks for more is better off with a filter. */
export const ROWS_MAX = 250_000;
/** How many are held back at most; with more, the list begins anew once they are asked for. */
const HELD_MAX = 1_000;
/** How often the newest are asked for beside the stream, which tells of this node's jobs alone. */
const LOOK_EVERY_MS = 20_000;
const TEXT_MAX = 300;

/** What a list is of, as its address says it. */
export function filterOf(query) {
  const text = (name) => query.get(name)?.trim() || null;
  return {
    statuses: (query.get("status") ?? "").split(",").filter(Boolean),
    endpoint: text("endpoint"),
    owner: text("owner"),
    tag: text("tag"),
    within: text("within"),
    since: text("since"),
    until: text("until"),
  };
}

const WITHIN_MS = { "15m": 9e5, "1h": 36e5, "6h": 216e5, "1d": 864e5, "7d": 6048e5 };

function parametersOf(filter, now) {
  const parameters = new URLSearchParams({ order: "desc", limit: String(FIRST_PAGE) });
  const put = (name, value) => value && parameters.set(name, value);
  put("status", filter.statuses.join(","));
  put("endpoint", filter.endpoint);
  put("owner", filter.owner);
  put("job_tag", filter.tag);
  const within = WITHIN_MS[filter.within];
  put("since", within ? new Date(now - within).toISOString() : filter.since);
  put("until", filter.until);
  return parameters;
}

export class Listing {
  /** Told when anything is different. */
  changed = new Value(0);
  rows = [];
  /** New jobs that are held back while somebody reads further down. */
  held = [];
  isLoading = false;
  /** Whether the last row is the oldest job there is. */
  isWhole = false;
  error = null;
  /** Of the stream: null, "live", "waiting", "refused". */
  state = null;
  isAtTop = true;
  /** Whether there is a gap between what is held back, or was not, and the rows. */
  isBehind = false;

  /** The newest that is known without a gap. */
  #newest = 0;
  #filter;
  #parameters;
  #next;
  #known = new Map();
  #ending = new AbortController();
  #stopStream;
  #timer;
  #frame = 0;
  #isLooking = false;

  constructor(filter) {
    this.#filter = filter;
    this.#parameters = parametersOf(filter, Date.now());
    this.#next = `jobs?${this.#parameters}`;
    this.more();
    this.#stopStream = follow("jobs/events", {
      state: (state) => {
        this.state = state;
        this.#tell();
      },
      event: (name, data) => {
        // What happened before the stream began is in the list.
        if (name === "begin") this.#look();
        else if (name === "jobs") {
          // With more than these, they would hide the gap below them: new ones come with the look.
          const told = data.more ? data.jobs.filter((job) => this.#known.has(job.job_id)) : data.jobs;
          told.forEach((job) => this.#take(job));
          if (data.more) this.#look();
          this.#tell();
        }
      },
    });
    this.#timer = setInterval(() => document.hidden || this.#look(), LOOK_EVERY_MS);
  }

  end() {
    this.#ending.abort();
    this.#stopStream();
    clearInterval(this.#timer);
    cancelAnimationFrame(this.#frame);
  }

  /** Fetches the next page, unless it is on its way or there is none. */
  async more() {
    if (this.isLoading || this.isWhole || this.rows.length >= ROWS_MAX) return;
    this.isLoading = true;
    this.error = null;
    this.#tell();
    try {
      const page = await this.#fetch(this.#next);
      for (const job of page.jobs) this.#append(row(job));
      this.isWhole = !page.next;
      this.#next = page.next && beyond(page.next);
    } catch (error) {
      if (this.#ending.signal.aborted) return;
      this.error = error;
    }
    this.isLoading = false;
    this.#tell();
    // A page may be empty and lead on: the server looks at so many jobs at a time.
    if (!this.error && this.rows.length === 0) this.more();
  }

  /** Puts what was held back on top. */
  async show() {
    if (this.isBehind) {
      this.isAtTop = true;
      await this.#look();
      return;
    }
    const held = this.held;
    this.held = [];
    for (const job of held) this.#insert(job);
    this.#tell();
  }

  replace(job) {
    this.#take(job);
    this.#tell();
  }

  /** Looks at the newest, which may be others than those that are known. */
  async #look() {
    if (this.#isLooking || (this.rows.length === 0 && this.isLoading)) return;
    this.#isLooking = true;
    const newest = this.#newest;
    try {
      const page = await this.#fetch(`jobs?${this.#parameters}`);
      const last = page.jobs.at(-1)?.job_id ?? 0;
      // So much is new that there is a gap.
      this.isBehind ||= Boolean(page.next) && newest < last;
      if (this.isBehind && this.isAtTop) {
        this.#reset(page);
      } else {
        page.jobs.forEach((job) => this.#take(job));
      }
      this.error = null;
    } catch (error) {
      if (!this.#ending.signal.aborted) this.error = error;
    }
    this.#isLooking = false;
    this.#tell();
  }

  #reset(page) {
    this.rows = [];
    this.held = [];
    this.isBehind = false;
    this.#newest = 0;
    this.#known.clear();
    page.jobs.forEach((job) => this.#append(row(job)));
    this.isWhole = !page.next;
    this.#next = page.next && beyond(page.next);
  }

  #fetch(path) {
    return askJson(path, { signal: this.#ending.signal });
  }

  #append(job) {
    if (this.#known.has(job.job_id)) return;
    this.#known.set(job.job_id, job);
    this.#newest = Math.max(this.#newest, job.job_id);
    this.rows.push(job);
  }

  /** A job as it is now. */
  #take(told) {
    const job = row(told);
    const known = this.#known.get(job.job_id);
    if (known) {
      if (isStale(known, job)) return;
      Object.assign(known, { error: null, time_started: null, time_ended: null }, job);
      if (!this.#wants(job)) this.#remove(known);
      return;
    }
    if (!this.#wants(job)) return;
    const oldest = this.rows.at(-1)?.job_id ?? 0;
    if (job.job_id < oldest && !this.isWhole) return;
    const isNew = job.job_id > (this.rows[0]?.job_id ?? 0);
    if (isNew && !this.isAtTop) {
      if (this.held.length >= HELD_MAX) {
        this.isBehind = true;
        return;
      }
      this.#known.set(job.job_id, job);
      this.#newest = Math.max(this.#newest, job.job_id);
      this.held.push(job);
    } else {
      this.#insert(job);
    }
  }

  #insert(job) {
    this.#known.set(job.job_id, job);
    this.#newest = Math.max(this.#newest, job.job_id);
    // Ids fall.
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].job_id > job.job_id) low = middle + 1;
      else high = middle;
    }
    this.rows.splice(low, 0, job);
    if (this.rows.length > ROWS_MAX) this.#known.delete(this.rows.pop().job_id);
  }

  #remove(job) {
    this.#known.delete(job.job_id);
    this.rows = this.rows.filter((other) => other !== job);
    this.held = this.held.filter((other) => other !== job);
  }

  #wants(job) {
    const { statuses, endpoint, owner, tag } = this.#filter;
    const received = Date.parse(job.time_received);
    const [since, until] = ["since", "until"].map((name) => this.#parameters.get(name));
    return (statuses.length === 0 || statuses.includes(job.status))
      && (!endpoint || job.endpoint === endpoint)
      && (!owner || job.owner === owner)
      && (!tag || job.job_tag === tag)
      && (!since || received >= Date.parse(since))
      && (!until || received < Date.parse(until));
  }

  /** However much changes, views are drawn once for a frame. */
  #tell() {
    if (this.#frame || this.#ending.signal.aborted) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.changed.set(this.changed.value + 1);
    });
  }
}

/**
 * Whether what is told of a job is older than what is known: answers may overtake each other. Ends never change, and
 * who was told to stop does not go on.
 */
export function isStale(known, told) {
  if (known?.job_id !== told.job_id) return false;
  if (known.status !== "RUNNING") return told.status === "RUNNING";
  return known.phase === "cancelling" && told.phase === "running";
}

/** The path of the next page, from where the server is. */
const beyond = (next) => next.replace(/^\//, "").replace(/\blimit=\d+/, `limit=${PAGE}`);

/** What a row shows of a job. */
function row(job) {
  const { job_id, job_tag, endpoint, status, phase, progress, owner, time_received, time_started, time_ended } = job;
  const error = job.error?.slice(0, TEXT_MAX) ?? null;
  return { job_id, job_tag, endpoint, status, phase, progress, owner, time_received, time_started, time_ended, error };
}
