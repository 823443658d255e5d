// Who is logged in, and the one way to the server.
//
// Credentials are kept in this page's memory, so that they are gone with it; or, if the user wants that, in the
// tab's own storage, so that a reload keeps them. They go in a header, and never into a URL.

import { Value } from "./store.js";

const BASE = new URL("../", import.meta.url);
const KEPT = "kjob.authorization";
const HTTP_UNAUTHORIZED = 401;

/** What the server says of the caller; null while it is not known. */
export const me = new Value(null);
/** Whether credentials are needed, and why: null, "needed", "wrong", or what the server said. */
export const login = new Value(null);

let authorization = kept();

/** An answer that is none of those hoped for, with what the server says of it. */
export class Failure extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** A request with the credentials of the session. Fails with a `Failure` unless the answer is one of success. */
export async function ask(path, { method = "GET", headers = {}, body, signal } = {}) {
  const answer = await send(path, { method, headers, body, signal, authorization });
  if (answer.ok || answer.status === 304) return answer;
  const failure = await failureOf(answer);
  if (answer.status === HTTP_UNAUTHORIZED) {
    me.set(null);
    login.set(authorization ? "wrong" : "needed");
  }
  throw failure;
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

function send(path, { method, headers, body, signal, authorization: shown }) {
  const all = shown ? { ...headers, Authorization: shown } : headers;
  // Without what the browser itself may know: it would ask for a password in its own window.
  return fetch(new URL(path, BASE), {
    method, headers: all, body, signal, credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer",
  });
}

async function failureOf(answer) {
  try {
    return new Failure(answer.status, await answer.json());
  } catch {
    return new Failure(answer.status, {});
  }
}

/** Asks who the server takes us for. */
export async function begin() {
  me.set(await askJson("console/me"));
  login.set(null);
}

/** Tries credentials; says what is wrong with them, or null. */
export async function logIn(shown, isKept) {
  const answer = await send("console/me", { method: "GET", headers: {}, authorization: shown });
  if (!answer.ok) {
    const failure = await failureOf(answer);
    return answer.status === HTTP_UNAUTHORIZED ? "wrong" : failure.message;
  }
  authorization = shown;
  keep(isKept ? shown : null);
  me.set(await answer.json());
  login.set(null);
  return null;
}

export function logOut() {
  authorization = null;
  keep(null);
  me.set(null);
  login.set("needed");
}

export const isLoggedIn = () => authorization !== null;

/** HTTP's Basic scheme, in UTF-8 as RFC 7617 has it. */
export function basic(name, password) {
  const bytes = new TextEncoder().encode(`${name}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

export const bearer = (token) => `Bearer ${token}`;

function kept() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function keep(shown) {
  try {
    if (shown === null) sessionStorage.removeItem(KEPT);
    else sessionStorage.setItem(KEPT, shown);
  } catch {
    // A browser that keeps nothing keeps nothing.
  }
}
