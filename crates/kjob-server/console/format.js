// Numbers, times and bytes for people. No function here makes markup.

const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });
const ABSOLUTE = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "2-digit",
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const COUNT = new Intl.NumberFormat("en");

const STEPS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];

/** "12s ago", "in 3h": `time` as text or milliseconds. */
export function relative(time, now) {
  const seconds = (asMillis(time) - now) / 1000;
  if (!Number.isFinite(seconds)) return "";
  if (Math.abs(seconds) < 1) return "now";
  const [unit, size] = STEPS.find(([, step]) => Math.abs(seconds) >= step);
  return RELATIVE.format(Math.trunc(seconds / size), unit);
}

export function absolute(time) {
  const millis = asMillis(time);
  return Number.isFinite(millis) ? ABSOLUTE.format(millis) : "";
}

export function asMillis(time) {
  return typeof time === "number" ? time : Date.parse(time);
}

/** "850 ms", "12.4 s", "3 min 05 s", "2 h 10 min". */
export function duration(millis) {
  if (!Number.isFinite(millis)) return "";
  const most = Math.max(0, millis);
  if (most < 1) return most === 0 ? "0 ms" : `${most.toFixed(1)} ms`;
  if (most < 1_000) return `${Math.round(most)} ms`;
  const seconds = most / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 172_800) return `${Math.floor(whole / 3_600)} h ${two(Math.floor((whole % 3_600) / 60))} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3_600)} h`;
}

/** A round time, for an axis: "100 ms", "10 s", "2 min". */
export function brief(millis) {
  const steps = [["d", 864e5], ["h", 36e5], ["min", 6e4], ["s", 1e3]];
  const [unit, size] = steps.find(([, step]) => millis >= step) ?? ["ms", 1];
  return `${Math.round(millis / size)} ${unit}`;
}

const two = (number) => String(number).padStart(2, "0");

export const count = (number) => COUNT.format(number);

/** "12,345", or "1.2 M" where there is little room. */
export function short(number) {
  if (!Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size >= 1e9) return `${(number / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(number / 1e3).toFixed(1)} k`;
  if (size >= 100 || Number.isInteger(number)) return COUNT.format(Math.round(number));
  return number.toFixed(size >= 10 ? 1 : 2);
}

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  const units = ["KiB", "MiB", "GiB"];
  let value = number / 1024;
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[at]}`;
}

/** Bytes as people read them: offset, sixteen bytes, and what of them is ASCII. */
export function hex(data) {
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const row = data.subarray(at, at + 16);
    const digits = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"));
    const text = Array.from(row, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "."));
    const halves = `${digits.slice(0, 8).join(" ")}  ${digits.slice(8).join(" ")}`;
    lines.push(`${at.toString(16).padStart(8, "0")}  ${halves.padEnd(49)} ${text.join("")}`);
  }
  return lines.join("\n");
}
