// What a job was given and what it gave: a bounded look at it, and the whole as a file.

import { bytes, hex } from "./format.js";
import { Failure, ask } from "./session.js";
import { html, useEffect, useState } from "./view.js";

/** How much is fetched to be looked at. */
const LOOK_BYTES = 64 * 1024;
const HEX_BYTES = 4 * 1024;

/** The bytes at a path, shown as what they are. */
export function Preview({ path, name, isPacked, hasRecord }) {
  const [look, setLook] = useState(null);
  const [form, setForm] = useState("auto");
  useEffect(() => {
    const ending = new AbortController();
    fetchLook(path, hasRecord, ending.signal).then(setLook, (error) => ending.signal.aborted || setLook({ error }));
    return () => ending.abort();
  }, [path]);
  if (isPacked) {
    return html`<p class="note">It is packed with ${isPacked}, so there is no look at it.</p><${Download} path=${path} name=${name} />`;
  }
  if (!look) return html`<p class="note">Loading …</p>`;
  if (look.error) return html`<p class="problem">${look.error.message}</p>`;
  const shown = form === "hex" ? { text: hex(look.data.subarray(0, HEX_BYTES)), kind: "hex", isCut: look.length > HEX_BYTES } : look.shown;
  return html`<div class="preview">
    <div class="preview-bar">
      <span class="note">${look.type ? `${look.type}, ` : ""}${bytes(look.length)}${look.isTurned ? ", shown as JSON" : ""}</span>
      ${look.shown.kind !== "hex" && html`<button type="button" class="plain" aria-pressed=${String(form === "hex")}
        onClick=${() => setForm(form === "hex" ? "auto" : "hex")}>Hex</button>`}
      <${Download} path=${path} name=${name} />
    </div>
    ${look.length === 0 ? html`<p class="note">It has no bytes.</p>` : html`<pre class="bytes bytes-${shown.kind}" tabindex="0">${shown.text}</pre>`}
    ${shown.isCut && html`<p class="note">This is the beginning. The file has all of it.</p>`}
  </div>`;
}

async function fetchLook(path, hasRecord, signal) {
  if (hasRecord) {
    // An endpoint that declares its records has them as JSON as well.
    try {
      return { ...(await lookAt(`${path}?encoding=json`, signal)), isTurned: true };
    } catch (error) {
      if (!(error instanceof Failure) || error.status !== 422) throw error;
    }
  }
  return lookAt(path, signal);
}

async function lookAt(path, signal) {
  let answer;
  try {
    answer = await ask(path, { headers: { Range: `bytes=0-${LOOK_BYTES - 1}` }, signal });
  } catch (error) {
    // No byte can be asked for where there are none.
    if (!(error instanceof Failure) || error.status !== 416) throw error;
    return { type: "", length: 0, data: new Uint8Array(), shown: { text: "", kind: "text", isCut: false } };
  }
  const data = new Uint8Array(await answer.arrayBuffer()).subarray(0, LOOK_BYTES);
  const whole = answer.headers.get("Content-Range")?.split("/")[1] ?? answer.headers.get("Content-Length");
  const length = Number(whole ?? data.length);
  const type = (answer.headers.get("Content-Type") ?? "").split(";")[0];
  return { type, length, data, shown: shownAs(data, type, length > data.length) };
}

function shownAs(data, type, isCut) {
  const text = textOf(data, isCut);
  const isJson = /[/+]json$/.test(type);
  if (text === null || !(isJson || /^text\/|xml$|javascript$|yaml$/.test(type))) {
    return { text: hex(data.subarray(0, HEX_BYTES)), kind: "hex", isCut: isCut || data.length > HEX_BYTES };
  }
  if (isJson && !isCut) return { text: pretty(text), kind: "json", isCut };
  return { text, kind: "text", isCut };
}

function textOf(data, isCut) {
  try {
    // What was cut may end in the midst of a letter.
    return new TextDecoder("utf-8", { fatal: true }).decode(data, { stream: isCut });
  } catch {
    return null;
  }
}

/** JSON with line breaks. Numbers keep their digits where the browser can tell them. */
export function pretty(text) {
  try {
    const exact = (_, value, context) =>
      (typeof value === "number" && context && JSON.rawJSON && String(value) !== context.source ? JSON.rawJSON(context.source) : value);
    return JSON.stringify(JSON.parse(text, exact), null, 2);
  } catch {
    return text;
  }
}

function Download({ path, name }) {
  const [error, setError] = useState(null);
  const download = async () => {
    setError(null);
    try {
      save(await (await ask(path)).blob(), name);
    } catch (failure) {
      setError(failure.message);
    }
  };
  return html`<button type="button" onClick=${download}>Download</button>
    ${error && html`<span class="problem" role="alert">${error}</span>`}`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
