// The page: who one is, where one is, and what is said at its edge.

import { Icon } from "./icons.js";
import { Job, asked, said } from "./job.js";
import { Jobs } from "./jobs.js";
import { Login } from "./login.js";
import { Overview } from "./overview.js";
import { address, go, route } from "./route.js";
import { begin, isLoggedIn, logOut, login, me } from "./session.js";
import { useValue } from "./store.js";
import { Submit } from "./submit.js";
import { html, render, useEffect, useRef, useState } from "./view.js";

const THEMES = ["auto", "light", "dark"];
const SAID_MS = 6_000;

function Page() {
  const needed = useValue(login);
  const caller = useValue(me);
  const [error, setError] = useState(null);
  const start = () => {
    setError(null);
    begin().catch((failure) => login.value === null && setError(failure));
  };
  useEffect(start, []);
  if (needed) return html`<${Login} why=${needed} />`;
  if (error) {
    return html`<main class="login"><div class="card" role="alert"><h1><span class="brand">kjob</span></h1>
      <p class="problem">${error.problem ? error.message : "The server cannot be reached."}</p>
      <button type="button" class="main" onClick=${start}>Try again</button></div></main>`;
  }
  if (!caller) return html`<main class="login"><p class="note" role="status">Loading …</p></main>`;
  return html`<${Header} caller=${caller} /><main id="main" tabindex="-1"><${Place} /></main><${Said} /><${Asked} />`;
}

function Place() {
  const { path, query } = useValue(route);
  useTitle(path);
  const job = path.match(/^\/jobs\/([^/]+)$/);
  if (job) return html`<${Job} key=${job[1]} name=${job[1]} />`;
  if (path === "/overview") return html`<${Overview} />`;
  if (path === "/submit") return html`<${Submit} query=${query} />`;
  return html`<${Jobs} query=${query} />`;
}

/** The title of the page; and where it changes, what readers of screens begin to read. */
function useTitle(path) {
  const first = useRef(true);
  useEffect(() => {
    const name = { "/": "Jobs", "/overview": "Overview", "/submit": "Submit" }[path] ?? `Job ${path.split("/").at(-1)}`;
    document.title = `${name} – kjob`;
    if (!first.current) document.querySelector("#grid, #main")?.focus({ preventScroll: true });
    first.current = false;
    scrollTo(0, 0);
  }, [path]);
}

function Header({ caller }) {
  const { path } = useValue(route);
  const links = [["/", "Jobs"], ["/overview", "Overview"], ["/submit", "Submit"]];
  const here = path.startsWith("/jobs") ? "/" : path;
  return html`<header class="header">
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>Skip to the content</a>
    <a class="brand" href=${address("/")}>kjob</a>
    <nav aria-label="Main">${links.filter(([to]) => to !== "/overview" || caller.may_see_history).map(([to, word]) => html`<a key=${to}
      href=${address(to)} aria-current=${here === to ? "page" : undefined}>${word}</a>`)}</nav>
    <span class="room"></span>
    <${Theme} />
    ${caller.accounts !== "none" && html`<span class="user" title="${caller.role}">${caller.user}</span>`}
    ${isLoggedIn() && html`<button type="button" class="plain" onClick=${logOut}>Log out</button>`}
  </header>`;
}

function Theme() {
  const [theme, setTheme] = useState(keptTheme);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  // Kept at once, and not after the next picture: the page may be left before that.
  const change = () => { put(next); keep(next); setTheme(next); };
  return html`<button type="button" class="icon" aria-label="Colours: ${theme}. Change to ${next}" title="Colours: ${theme}"
    onClick=${change}><${Icon} name=${theme} /></button>`;
}

function keep(theme) {
  try {
    localStorage.setItem("kjob.theme", theme);
  } catch {
    // A browser that keeps nothing keeps nothing.
  }
}

function put(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function keptTheme() {
  try {
    const kept = localStorage.getItem("kjob.theme");
    return THEMES.includes(kept) ? kept : "auto";
  } catch {
    return "auto";
  }
}

function Said() {
  const text = useValue(said);
  useEffect(() => {
    const timer = text && setTimeout(() => said.set(null), SAID_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<div class="said ${text ? "" : "is-empty"}" role="status" aria-live="polite">${text}</div>`;
}

function Asked() {
  const question = useValue(asked);
  return question && html`<${Question} key=${question.id} question=${question} />`;
}

function Question({ question }) {
  const dialog = useRef();
  const answer = useRef(false);
  useEffect(() => {
    dialog.current.showModal();
    // One that gives way to another is answered, too.
    return () => question.done(answer.current);
  }, []);
  const onClose = () => {
    question.done(answer.current);
    // By now another may be asked.
    if (asked.value === question) asked.set(null);
  };
  return html`<dialog ref=${dialog} class="card" aria-labelledby="question" onClose=${onClose}>
    <p id="question">${question.text}</p>
    <div class="actions">
      <button type="button" class="danger" onClick=${() => { answer.current = true; dialog.current.close(); }}>${question.action}</button>
      <button type="button" onClick=${() => dialog.current.close()}>Leave it</button>
    </div>
  </dialog>`;
}

addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  if (event.key === "/") {
    const field = document.getElementById("filter-endpoint");
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  } else if ((event.key === "j" || event.key === "k") && document.activeElement?.id !== "grid") {
    document.getElementById("grid")?.focus();
  } else if (event.key === "Escape" && route.value.path !== "/") {
    go("/");
  }
});

put(keptTheme());
const place = document.getElementById("console");
// What is there for browsers without scripts.
place.replaceChildren();
render(html`<${Page} />`, place);
