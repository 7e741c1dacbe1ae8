// The number formats, ticks and scales of a chart.
"use strict";

// Rounds as Python does: of the ties x.125 and x.625 toFixed takes the odd digit, Python the even.
const hundredths = (v) => (Math.abs(v * 8) % 4 === 1 ? v - Math.sign(v) * 0.001 : v).toFixed(2);

const minus = (text) => text.replace(/^-/, "−");

const FORMATS = {
  percent: (v) => `${hundredths(100 * v)} %`,
  points: (v) => `${minus(hundredths(100 * v))} points`,
  loss: (v) => v.toPrecision(4),
  rate: (v) => short(Number(v.toPrecision(3))),
  epoch: (v) => String(v),
  seconds: (v) => `${v.toFixed(v < 100 ? 1 : 0)} s`,
};
const TICKS = { ...FORMATS, loss: (v) => String(round(v)) };
TICKS.percent = TICKS.points = (v) => minus(String(round(100 * v)));
TICKS.rate = (v) => {
  const power = Math.log10(v);
  const whole = Math.abs(power - Math.round(power)) < 1e-9 && power < -2;
  return whole ? `10⁻${"⁰¹²³⁴⁵⁶⁷⁸⁹"[-Math.round(power)] ?? "?"}` : FORMATS.rate(v);
};
TICKS.seconds = (v) => String(round(v));

// Three significant digits as Python writes them.
const short = (v) => (v < 1e-4 ? v.toExponential().replace(/e-(\d)$/, "e-0$1") : String(v));
const round = (v) => Number(v.toPrecision(6));
const finite = (values) => values.filter((v) => v !== null);

function linearTicks(low, high, count, whole) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  const decades = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) decades.push(p);
  const inside = (v) => v >= low * 0.999 && v <= high * 1.001;
  for (let every = Math.ceil(decades.length / count); every > 0; every--) {
    const whole = decades.filter((p) => p % every === 0).map((p) => Number(`1e${p}`)).filter(inside);
    if (whole.length > 2) return whole;
  }
  return decades.flatMap((p) => [1, 2, 5].map((n) => Number(`${n}e${p}`))).filter(inside);
}

function scale(axis, values, from, to, count) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (axis.log) {
    if (low === high) [low, high] = [low / 2, high * 2];
    const span = Math.log(high / low);
    const at = (v) => from + ((to - from) * Math.log(v / low)) / span;
    return { at, ticks: logTicks(low, high, count) };
  }
  if (axis.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
  const share = axis.format === "percent" || axis.format === "points"; // 1 is shown as 100
  if (low === high) [low, high] = [low - (share ? 0.01 : 0.5), high + (share ? 0.01 : 0.5)];
  const at = (v) => from + ((to - from) * (v - low)) / (high - low);
  return { at, ticks: linearTicks(low, high, count, axis.format === "epoch") };
}

function padded(axis, values) {
  const all = axis.zero ? [0, ...values] : values;
  const [low, high] = [Math.min(...all), Math.max(...all)];
  if (axis.log) return [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
  const extra = 0.06 * (high - low);
  const zero = (end) => axis.zero && end === 0;
  return [zero(low) ? 0 : low - extra, zero(high) ? 0 : high + extra];
}
