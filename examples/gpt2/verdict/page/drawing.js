/* Scales, axes, marks and the tooltip: what every chart of the page is made of. It knows nothing of optimizers. */
"use strict";

const SHAPES = [
  "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0Z",
  "M-3.2,-3.2H3.2V3.2H-3.2Z",
  "M0,-4.4L4.2,3.2H-4.2Z",
  "M0,-4.6L4.6,0L0,4.6L-4.6,0Z",
  "M0,4.4L4.2,-3.2H-4.2Z",
  "M-4.2,-1.4H-1.4V-4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2Z",
  "M-4.6,0L-2.3,-4H2.3L4.6,0L2.3,4H-2.3Z",
  "M0,-4.8L1.3,-1.5L4.6,-1.5L2,0.7L3,4.2L0,2.1L-3,4.2L-2,0.7L-4.6,-1.5L-1.3,-1.5Z",
];
const CROSS = "M-3.5,-3.5L3.5,3.5M3.5,-3.5L-3.5,3.5";

function add(parent, tag, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

function addMark(parent, x, y, style, attributes = {}) {
  return add(parent, "path", { d: SHAPES[style.shape], transform: `translate(${x},${y})`, fill: style.color, ...attributes });
}

function canvas(holder) {
  holder.replaceChildren();
  const { width, height } = holder.getBoundingClientRect();
  const svg = add(holder, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  return { svg, width, height };
}

function linear([low, high], [from, to]) {
  const scale = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  scale.invert = (place) => low + ((place - from) / (to - from || 1)) * (high - low);
  scale.domain = [low, high];
  return scale;
}

function logarithmic([low, high], range) {
  const inner = linear([Math.log(low), Math.log(high)], range);
  const scale = (value) => inner(Math.log(value));
  scale.invert = (place) => Math.exp(inner.invert(place));
  return scale;
}

function roundTicks([low, high], wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) ticks.push(i * unit);
  return ticks;
}

function tickText(ticks) {
  const gap = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
  const top = Math.max(...ticks.map(Math.abs));
  const [divisor, suffix] = top >= 1e9 ? [1e9, "G"] : top >= 1e6 ? [1e6, "M"] : top >= 2e4 ? [1e3, "k"] : [1, ""];
  const digits = Math.max(0, -Math.floor(Math.log10(gap / divisor) + 1e-9));
  return (value) => value === 0 ? "0" : (value / divisor).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + suffix;
}

function drawValueAxis(svg, scale, ticks, { left, right }) {
  const text = tickText(ticks);
  for (const tick of ticks) {
    add(svg, "line", { class: "grid", x1: left, x2: right, y1: scale(tick), y2: scale(tick) });
    add(svg, "text", { class: "axis", x: left - 8, y: scale(tick) + 4, "text-anchor": "end" }, text(tick));
  }
}

function drawPlaceAxis(svg, scale, ticks, { bottom, text = tickText(ticks), top = null }) {
  for (const tick of ticks) {
    if (top !== null) add(svg, "line", { class: "grid", x1: scale(tick), x2: scale(tick), y1: top, y2: bottom });
    add(svg, "text", { class: "axis", x: scale(tick), y: bottom + 18, "text-anchor": "middle" }, text(tick));
  }
}

function linePath(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`).join("");
}

function bandPath(upper, lower) {
  return `${linePath(upper)}${linePath([...lower].reverse()).replace("M", "L")}Z`;
}

/* Places moved apart to at least `gap`, in their order, within [low, high]. */
function spaceOut(places, gap, low, high) {
  const order = places.map((place, i) => [place, i]).sort((a, b) => a[0] - b[0]);
  let above = low - gap;
  for (const item of order) above = item[0] = Math.max(item[0], above + gap);
  let below = high + gap;
  for (const item of order.reverse()) below = item[0] = Math.min(item[0], below - gap);
  const found = [];
  for (const [place, i] of order) found[i] = place;
  return found;
}

let clips = 0;
function clipTo(svg, x, y, width, height) {
  const id = `clip${clips++}`;
  add(add(svg, "clipPath", { id }), "rect", { x, y, width, height });
  return add(svg, "g", { "clip-path": `url(#${id})` });
}

const tip = document.getElementById("tip");

function showTip(event, title, rows) {
  tip.replaceChildren();
  const head = document.createElement("b");
  head.textContent = title;
  tip.append(head);
  for (const [name, value, color] of rows) {
    const line = document.createElement("div"), left = document.createElement("span"), right = document.createElement("span");
    left.textContent = name;
    right.textContent = value;
    if (color) left.style.color = color;
    line.append(left, right);
    tip.append(line);
  }
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 8))}px`;
}

function hideTip() {
  tip.hidden = true;
}

function explain(element, title, rows) {
  element.addEventListener("pointermove", (event) => showTip(event, title, rows));
  element.addEventListener("pointerleave", hideTip);
}
