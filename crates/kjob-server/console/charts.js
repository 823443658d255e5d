// Lines over time, drawn as SVG: small, crisp, in the colours of the page, and with words for who does not see them.

import { html, useLayoutEffect, useRef, useState } from "./view.js";

const MARGIN = { left: 52, right: 10, top: 8, bottom: 22 };
const HEIGHT = 168;

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const CLOCK_SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/**
 * `series` are `{ name, className, values }`, a number or null for each slot of `slotMs` from `begin` on; `format` makes a
 * number a text. `at` is the slot that all charts point at, or null.
 */
export function Chart({ title, unit, series, begin, slotMs, format, formatTick = format, at, onAt, isLog }) {
  const frame = useRef();
  const [width, setWidth] = useState(480);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(240, Math.floor(entry.contentRect.width))));
    watch.observe(frame.current);
    return () => watch.disconnect();
  }, []);
  const slots = series[0].values.length;
  const scale = scaleOf(series, isLog);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const x = (slot) => MARGIN.left + ((slot + 0.5) / slots) * inner.width;
  const y = (value) => MARGIN.top + (1 - scale.part(value)) * inner.height;
  const timeOf = (slot) => begin + slot * slotMs;
  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const slot = Math.floor(((event.clientX - box.left - MARGIN.left) / inner.width) * slots);
    onAt(slot >= 0 && slot < slots ? slot : null);
  };
  const onKeyDown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
    if (event.key === "Escape") onAt(null);
    else if (event.key === "Home") onAt(0);
    else if (event.key === "End") onAt(slots - 1);
    else if (step) onAt(Math.min(slots - 1, Math.max(0, (at ?? slots) + step)));
    else return;
    event.preventDefault();
  };
  const known = series[0].values.findLastIndex((value) => value !== null);
  const shown = at ?? (known < 0 ? slots - 1 : known);
  const words = series.map(({ name, values }) => `${name} ${told(values[shown], format)}`).join(", ");
  return html`<figure class="chart">
    <figcaption><h2>${title} <span class="unit">${unit}</span></h2>
      <ul class="legend">${series.map(({ name, className, values }) => html`<li key=${name}>
        <svg class="key ${className}" viewBox="0 0 16 4" aria-hidden="true"><path d="M0 2h16" /></svg>
        ${name} <b>${told(values[shown], format)}</b></li>`)}</ul>
    </figcaption>
    <div class="plot" ref=${frame} tabindex="0" role="img" onKeyDown=${onKeyDown}
      aria-label="${title}. At ${(slotMs < 6e4 ? CLOCK_SECONDS : CLOCK).format(timeOf(shown))}: ${words}. Arrow keys move along.">
      <svg viewBox="0 0 ${width} ${HEIGHT}" width=${width} height=${HEIGHT} aria-hidden="true"
          onPointerMove=${point} onPointerDown=${point} onPointerLeave=${() => onAt(null)}>
        ${scale.ticks.map((tick) => html`<g key=${tick} class="tick"><path d="M${MARGIN.left} ${round(y(tick))}H${width - MARGIN.right}" />
          <text x=${MARGIN.left - 8} y=${y(tick) + 4} text-anchor="end">${formatTick(tick)}</text></g>`)}
        ${timeTicks(begin, slotMs, slots, width).map((time) => html`<text key=${time} class="time" text-anchor="middle"
          x=${x((time - begin) / slotMs - 0.5)} y=${HEIGHT - 6}>${CLOCK.format(time)}</text>`)}
        ${series.map(({ name, className, values }) => html`<path key=${name} class="line ${className}" d=${lineOf(values, x, y)} />`)}
        ${at !== null && html`<path class="cross" d="M${round(x(at))} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}" />
          ${series.map(({ name, className, values }) => values[at] !== null
            && html`<circle key=${name} class="dot ${className}" cx=${x(at)} cy=${y(values[at])} r="3" />`)}`}
      </svg>
      ${at !== null && html`<span class="moment" aria-hidden="true">${(slotMs < 6e4 ? CLOCK_SECONDS : CLOCK).format(timeOf(at))}</span>`}
    </div>
  </figure>`;
}

const told = (value, format) => (value === null || value === undefined ? "–" : format(value));

const round = (number) => Math.round(number * 2) / 2;

function lineOf(values, x, y) {
  let path = "";
  let isPenUp = true;
  values.forEach((value, slot) => {
    if (value === null) {
      isPenUp = true;
      return;
    }
    // A value alone between two gaps is a short stroke.
    const isAlone = isPenUp && (values[slot + 1] ?? null) === null;
    path += `${isPenUp ? "M" : "L"}${round(x(slot) - (isAlone ? 1.5 : 0))} ${round(y(value))}`;
    if (isAlone) path += "h3";
    isPenUp = false;
  });
  return path;
}

/** From zero up; or, for times that differ by orders of magnitude, by their logarithms. */
function scaleOf(series, isLog) {
  const all = series.flatMap(({ values }) => values.filter((value) => value !== null));
  const most = Math.max(0, ...all);
  if (isLog) {
    // Round times, each some ten times the one before.
    const steps = [1, 10, 100, 1e3, 1e4, 6e4, 6e5, 36e5, 36e6, 864e5, 864e6];
    const end = Math.max(3, steps.findIndex((step) => step >= most) + 1 || steps.length);
    const high = Math.log10(steps[end - 1]);
    const each = Math.ceil(end / 6);
    return {
      ticks: steps.slice(0, end).filter((_, index) => index % each === 0),
      part: (value) => Math.min(1, Math.log10(Math.max(value, 1)) / high),
    };
  }
  const step = niceStep(Math.max(most, 1) / 4);
  const top = Math.max(step, Math.ceil(most / step) * step);
  return {
    ticks: Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step),
    part: (value) => value / top,
  };
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

/** Full hours or quarters, so that they are some hundred pixels apart. */
function timeTicks(begin, slotMs, slots, width) {
  const span = slots * slotMs;
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720].map((minutes) => minutes * 6e4);
  const step = steps.find((it) => (it / span) * width >= 84) ?? steps.at(-1);
  const offset = new Date(begin).getTimezoneOffset() * 6e4;
  const first = Math.ceil((begin - offset + step * 0.3) / step) * step + offset;
  const ticks = [];
  for (let time = first; time < begin + span - step * 0.3; time += step) ticks.push(time);
  return ticks;
}
