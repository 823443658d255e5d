// Where in the console one is: the part of the address behind `#`, which the server never sees.

import { Value } from "./store.js";

export const route = new Value(read());

/** The list that one was at last, with its filters. */
export const lastList = new Value("#/");

addEventListener("hashchange", () => route.set(read()));

function read() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?", 2);
  return { path: path || "/", query: new URLSearchParams(query), text: location.hash };
}

export function address(path, query) {
  const text = query ? new URLSearchParams(query).toString() : "";
  return `#${path}${text ? `?${text}` : ""}`;
}

export function go(path, query) {
  location.hash = address(path, query);
}

/** Changes the query of the place one is at, without a step in the history. */
export function requery(path, query) {
  history.replaceState(null, "", address(path, query));
  route.set(read());
}
