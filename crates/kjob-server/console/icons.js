// Signs of what a job is at: each has a word beside it, and never stands for one alone.

import { html } from "./view.js";

const PATHS = {
  queued: html`<circle cx="8" cy="8" r="6" stroke-dasharray="2.6 2.1" /><path d="M8 5v3l2 1.4" />`,
  running: html`<circle cx="8" cy="8" r="6" class="faint" /><path d="M8 2a6 6 0 0 1 6 6" />`,
  cancelling: html`<circle cx="8" cy="8" r="6" class="faint" /><path d="M5.5 8h5" />`,
  done: html`<circle cx="8" cy="8" r="6" /><path d="M5.2 8.2l2 2 3.6-4" />`,
  failed: html`<path d="M5.4 2h5.2L14 5.4v5.2L10.6 14H5.4L2 10.6V5.4z" /><path d="M6 6l4 4M10 6l-4 4" />`,
  cancelled: html`<circle cx="8" cy="8" r="6" /><path d="M4 12l8-8" />`,
};

const WORDS = {
  queued: "Queued",
  running: "Running",
  cancelling: "Cancelling",
  done: "Done",
  failed: "Error",
  cancelled: "Cancelled",
};

/** The phase of a job, as a sign and a word. */
export function Phase({ of }) {
  return html`<span class="phase phase-${of}">
    <svg class="sign sign-${of}" viewBox="0 0 16 16" aria-hidden="true">${PATHS[of]}</svg>
    <span>${WORDS[of] ?? of}</span>
  </span>`;
}

export function Icon({ name }) {
  const path = {
    auto: html`<circle cx="8" cy="8" r="6" /><path d="M8 2v12a6 6 0 0 0 0-12z" class="filled" />`,
    light: html`<circle cx="8" cy="8" r="3" /><path d="M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8L13 13M3 13l1.2-1.2M11.8 4.2L13 3" />`,
    dark: html`<path d="M13.5 9.6A6 6 0 0 1 6.4 2.5a6 6 0 1 0 7.1 7.1z" />`,
    copy: html`<rect x="5.5" y="5.5" width="8" height="8" rx="1.5" /><path d="M3.5 10.5h-1v-8h8v1" />`,
    back: html`<path d="M9.5 3.5L5 8l4.5 4.5" />`,
  }[name];
  return html`<svg class="sign" viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`;
}
