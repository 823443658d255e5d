// A form for a job: a new one, or one more of a job that there is.

import { bytes } from "./format.js";
import { pretty } from "./result.js";
import { go } from "./route.js";
import { ask, askJson, me } from "./session.js";
import { useValue } from "./store.js";
import { html, useEffect, useRef, useState } from "./view.js";

/** A payload that is larger is sent as it is, and not shown to be changed. */
const EDITED_MAX = 256 * 1024;
const SAMPLES = {
  "/demo/echo": { message: "hello" },
  "/demo/sleep": { millis: 5000 },
  "/demo/primes": { limit: 100000000 },
  "/demo/fail": { message: "as told" },
};

export function Submit({ query }) {
  const from = query.get("from");
  const [begin, setBegin] = useState(from ? null : { endpoint: "", payload: "{}", priority: 5 });
  useEffect(() => {
    if (!from) return setBegin({ endpoint: "", payload: "{}", priority: 5 });
    const ending = new AbortController();
    asOf(from, ending.signal).then(setBegin, (error) => ending.signal.aborted || setBegin({ endpoint: "", payload: "{}", priority: 5, lack: error.message }));
    return () => ending.abort();
  }, [from]);
  return html`<section class="sheet narrow"><h1>${from ? `Submit job ${from} again` : "Submit a job"}</h1>
    ${begin ? html`<${Form} key=${from ?? ""} begin=${begin} from=${from} />` : html`<p class="note" role="status">Loading …</p>`}</section>`;
}

/** What a job was submitted with, as far as it is there. */
async function asOf(id, signal) {
  const job = await askJson(`jobs/${id}`, { signal });
  const begin = { endpoint: job.endpoint, priority: job.priority, userData: job.user_data ?? "", payload: "{}" };
  try {
    const answer = await ask(`jobs/${id}/payload`, { signal });
    const type = answer.headers.get("Content-Type") ?? "";
    const data = new Uint8Array(await answer.arrayBuffer());
    if (type.startsWith("application/json") && data.length <= EDITED_MAX) {
      return { ...begin, payload: pretty(new TextDecoder().decode(data)) };
    }
    return { ...begin, data, encoding: type.includes("snappy") ? "snappy" : type.startsWith("application/json") ? "json" : "binary" };
  } catch (error) {
    return { ...begin, lack: `The payload is not there any more (${error.message}): give one.` };
  }
}

function Form({ begin, from }) {
  const caller = useValue(me);
  const [endpoint, setEndpoint] = useState(begin.endpoint);
  const [payload, setPayload] = useState(begin.payload);
  const [problem, setProblem] = useState(begin.lack ? { text: begin.lack } : null);
  const [isSending, setSending] = useState(false);
  const form = useRef();
  const jsonProblem = begin.data ? null : wrongJson(payload);
  const choose = (value) => {
    setEndpoint(value);
    if (payload === "{}" && SAMPLES[value]) setPayload(JSON.stringify(SAMPLES[value], null, 2));
  };
  const send = async (event) => {
    event.preventDefault();
    if (isSending || jsonProblem) return;
    setSending(true);
    setProblem(null);
    try {
      const body = bodyOf(endpoint.trim(), payload, begin, new FormData(form.current));
      const answer = await ask("jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const job = await answer.json();
      go(`/jobs/${job.job_id}`);
    } catch (error) {
      setProblem({ text: error.message, parameter: error.problem?.parameter });
      setSending(false);
    }
  };
  const isWrong = (name) => (problem?.parameter === name ? "true" : undefined);
  return html`<form class="form" ref=${form} onSubmit=${send} onKeyDown=${(event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event);
  }}>
    <label>Endpoint
      <input name="endpoint" value=${endpoint} required list="submit-endpoints" autocomplete="off" spellcheck=${false} maxlength="1024"
        aria-invalid=${isWrong("endpoint")} onInput=${(event) => choose(event.currentTarget.value)} autofocus />
    </label>
    <datalist id="submit-endpoints">${caller?.endpoints.map((it) => html`<option key=${it} value=${it} />`)}</datalist>
    ${begin.data
      ? html`<p class="note">The payload of job ${from}, ${bytes(begin.data.length)} of ${begin.encoding}, is sent as it was.</p>`
      : html`<label>Payload, JSON
          <textarea name="payload" rows="8" spellcheck=${false} value=${payload} aria-invalid=${jsonProblem ? "true" : undefined}
            aria-describedby="payload-problem" onInput=${(event) => setPayload(event.currentTarget.value)}></textarea>
        </label>
        <p id="payload-problem" class="hint">${jsonProblem ?? ""}</p>`}
    <div class="pair">
      <label><span>Tag <span class="optional">(optional)</span></span>
        <input name="job_tag" title="1 to 255 of A-Z a-z 0-9 _ -. The same call with the same tag is the same job." pattern="[A-Za-z0-9_\\-]{1,255}" autocomplete="off" spellcheck=${false} aria-invalid=${isWrong("job_tag")} /></label>
      <label><span>Priority <span class="optional">(0 to 9)</span></span>
        <input name="priority" type="number" min="0" max="9" value=${begin.priority} aria-invalid=${isWrong("priority")} /></label>
    </div>
    <details><summary>More</summary>
      <div class="pair">
        <label>Delay, in seconds<input name="delay" type="number" min="0" step="any" /></label>
        <label>Timeout, in seconds<input name="timeout" type="number" min="0.001" step="any" /></label>
        <label>Kept for, in seconds<input name="retention" type="number" min="0" step="1" /></label>
        <label>User data<input name="user_data" maxlength="4096" value=${begin.userData ?? ""} autocomplete="off" /></label>
      </div>
    </details>
    ${problem && html`<p class="problem" role="alert">${problem.text}</p>`}
    <div class="actions"><button type="submit" class="main" disabled=${isSending || !!jsonProblem}>${isSending ? "Submitting …" : "Submit"}</button>
      <span class="keys" aria-hidden="true"><kbd>Ctrl</kbd><kbd>Enter</kbd></span></div>
  </form>`;
}

/** The request. The payload goes into it as it was written, so that its numbers keep all their digits. */
function bodyOf(endpoint, payload, begin, fields) {
  const members = { endpoint };
  const put = (name, value) => {
    if (value !== null && value !== undefined && value !== "") members[name] = value;
  };
  const number = (name, factor = 1) => {
    const text = fields.get(name);
    return text ? Math.round(Number(text) * factor) : null;
  };
  put("job_tag", fields.get("job_tag"));
  put("priority", number("priority"));
  put("delay_ms", number("delay", 1000));
  put("timeout_ms", number("timeout", 1000));
  put("retention_seconds", number("retention"));
  put("user_data", fields.get("user_data"));
  if (begin.data && begin.encoding !== "json") {
    members.payload_base64 = base64(begin.data);
    members.payload_encoding = begin.encoding;
    return JSON.stringify(members);
  }
  const text = begin.data ? new TextDecoder().decode(begin.data) : payload;
  return `${JSON.stringify(members).slice(0, -1)},"payload":${text}}`;
}

function base64(data) {
  let text = "";
  for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
  return btoa(text);
}

function wrongJson(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
}
