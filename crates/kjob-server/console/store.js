// A value that views look at, and are drawn anew when it changes.

import { useEffect, useState } from "./vendor/hooks.js";

export class Value {
  #listeners = new Set();

  constructor(value) {
    this.value = value;
  }

  set(value) {
    if (!Object.is(value, this.value)) {
      this.value = value;
      this.tell();
    }
  }

  /** For values that are changed in place. */
  tell() {
    for (const listener of [...this.#listeners]) listener();
  }

  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

export function useValue(source) {
  const [, draw] = useState(0);
  useEffect(() => {
    const seen = source.value;
    const stop = source.listen(() => draw((count) => count + 1));
    // It may have changed between the drawing and now.
    if (!Object.is(seen, source.value)) draw((count) => count + 1);
    return stop;
  }, [source]);
  return source.value;
}

/** The time, told every so often, and not while nobody looks at the page. */
export function useNow(everyMs) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!everyMs) return undefined;
    const tick = () => document.hidden || setNow(Date.now());
    const timer = setInterval(tick, everyMs);
    document.addEventListener("visibilitychange", tick);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", tick);
    };
  }, [everyMs]);
  return now;
}
