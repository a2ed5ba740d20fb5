/* The charts of the page, the switches of its methods, and its sortable tables; all numbers are those in #numbers. */
"use strict";

const data = JSON.parse(document.getElementById("numbers").textContent);
const hidden = new Set();
let axis = 0;

const STEP = 0, LOSS = 3;
const AXES = ["steps", "tokens", "seconds of training"];
const styles = new Map();
{
  let next = 1;
  data.methods.forEach((method) => {
    const turn = method.label === data.baseline ? 0 : next++;
    const index = turn === 0 ? 0 : 1 + ((turn - 1) % 7);
    styles.set(method.label, { color: `var(--m${index})`, shape: (turn || 0) % SHAPES.length, dash: turn > 7 ? "6 4" : "none" });
  });
}

const shown = () => data.methods.filter((method) => method.best && !hidden.has(method.label));
const loss = (value) => value === null || value === undefined ? "–" : value.toFixed(4);
const whole = (value) => Math.round(value).toLocaleString("en");
const rate = (value) => Number(value.toPrecision(4)).toString().replace(/e-0?/, "e−");
const short = (value) => Number(value.toPrecision(3)).toString();
const bytes = (value) => {
  const [divisor, unit] = value >= 1e9 ? [1e9, "GB"] : value >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${short(value / divisor)} ${unit}`;
};
const duration = (seconds) => seconds >= 1 ? `${short(seconds)} s` : seconds >= 1e-3 ? `${short(seconds * 1e3)} ms` : `${short(seconds * 1e6)} µs`;

function emptyChart(svg, width, height, text) {
  add(svg, "text", { class: "quiet", x: width / 2, y: height / 2, "text-anchor": "middle" }, text);
}

function labelLoss(svg, left) {
  add(svg, "text", { class: "axis", x: left, y: 10, "text-anchor": "start" }, `nats per ${data.unit}`);
}

/* Losses worth showing: without the first steep fall, which says nothing about the end. */
function lossRange(methods) {
  const late = methods.flatMap((method) => {
    const last = method.curve.at(-1)[STEP];
    return method.curve.flatMap((point, i) => (point[STEP] >= 0.25 * last ? [point[LOSS], ...method.spread[i]] : []));
  });
  const low = Math.min(...late), high = Math.max(...late), margin = 0.04 * (high - low) + 0.004;
  return [low - margin, high + margin];
}

function drawLoss() {
  const { svg, width, height } = canvas(document.getElementById("chart-loss"));
  const methods = shown().filter((method) => method.curve.length);
  if (!methods.length) return emptyChart(svg, width, height, "No method is switched on");
  const names = Math.max(...methods.map((method) => method.label.length));
  const box = { left: 48, right: width - Math.min(210, 66 + 7 * names), top: 22, bottom: height - 44 };
  const x = linear([0, Math.max(...methods.map((method) => method.curve.at(-1)[axis]))], [box.left, box.right]);
  const y = linear(lossRange(methods), [box.bottom, box.top]);
  drawValueAxis(svg, y, roundTicks(y.domain, 6), box);
  drawPlaceAxis(svg, x, roundTicks(x.domain, Math.max(3, width / 130)), box);
  labelLoss(svg, 0);
  add(svg, "text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" }, AXES[axis]);
  const inside = clipTo(svg, box.left, box.top - 6, box.right - box.left + 6, box.bottom - box.top + 12);
  if (data.target !== null) {
    add(inside, "line", { class: "target", x1: box.left, x2: box.right, y1: y(data.target), y2: y(data.target) });
  }
  for (const method of methods) drawCurve(inside, method, x, y);
  const places = spaceOut(methods.map((method) => y(method.curve.at(-1)[LOSS])), 17, box.top, box.bottom);
  methods.forEach((method, i) => {
    const text = add(svg, "text", { x: box.right + 12, y: places[i] + 4, fill: styles.get(method.label).color });
    add(text, "tspan", { class: "label" }, method.label);
    add(text, "tspan", { class: "quiet", dx: 7 }, method.curve.at(-1)[LOSS].toFixed(3));
  });
  followCursor(svg, methods, x, box);
}

function drawCurve(parent, method, x, y) {
  const style = styles.get(method.label);
  const group = add(parent, "g", { "data-method": method.label });
  const places = method.curve.map((point) => x(point[axis]));
  const bounds = [1, 0].map((side) => method.spread.map((pair, i) => [places[i], y(pair[side])]));
  add(group, "path", { d: bandPath(...bounds), fill: style.color, opacity: 0.13 });
  if (method.training.length) {
    const points = method.training.map((point) => [x(point[axis]), y(point[LOSS])]);
    add(group, "path", { d: linePath(points), fill: "none", stroke: style.color, "stroke-width": 0.8, opacity: 0.4 });
  }
  const curve = method.curve.map((point, i) => [places[i], y(point[LOSS])]);
  add(group, "path", { class: "curve", d: linePath(curve), fill: "none", stroke: style.color, "stroke-width": 2, "stroke-dasharray": style.dash, "stroke-linejoin": "round" });
  const every = Math.ceil(curve.length / 14);
  curve.forEach(([px, py], i) => { if ((curve.length - 1 - i) % every === 0) addMark(group, px, py, style); });
}

function followCursor(svg, methods, x, box) {
  const line = add(svg, "line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const area = add(svg, "rect", { class: "hit", x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });
  area.addEventListener("pointermove", (event) => {
    const here = x.invert(event.clientX - svg.getBoundingClientRect().left);
    const nearest = methods.map((method) => method.curve.reduce((a, b) => (Math.abs(b[axis] - here) < Math.abs(a[axis] - here) ? b : a)));
    line.setAttribute("x1", x(nearest[0][axis]));
    line.setAttribute("x2", x(nearest[0][axis]));
    line.setAttribute("visibility", "visible");
    const rows = methods.map((method, i) => [method.label, loss(nearest[i][LOSS]), styles.get(method.label).color, nearest[i][LOSS]]);
    showTip(event, `${whole(nearest[0][axis])} ${AXES[axis]}`, rows.sort((a, b) => a[3] - b[3]));
  });
  area.addEventListener("pointerleave", () => { hideTip(); line.setAttribute("visibility", "hidden"); });
}

/* Up to where losses are shown: rates that are far too high would press all others together. */
function usefulTop(losses) {
  const sorted = [...losses].sort((a, b) => a - b);
  const low = sorted[0], middle = sorted[Math.floor(sorted.length / 2)];
  return Math.min(sorted.at(-1), low + 3.2 * (middle - low) + 0.01);
}

function drawRates() {
  const { svg, width, height } = canvas(document.getElementById("chart-lr"));
  const methods = data.methods.filter((method) => method.rates.length && !hidden.has(method.label));
  const losses = methods.flatMap((method) => method.rates.flatMap((each) => each.finals.map(([, value]) => value)));
  if (!losses.length) return emptyChart(svg, width, height, "No finished run is switched on");
  const box = { left: 48, right: width - 14, top: 22, bottom: height - 44 };
  const all = methods.flatMap((method) => method.rates.map((each) => each.lr)).filter((lr) => lr > 0);
  const low = Math.min(...losses), high = usefulTop(losses), margin = 0.06 * (high - low) + 0.002;
  const x = logarithmic([Math.min(...all) / 1.25, Math.max(...all) * 1.25], [box.left, box.right]);
  const y = linear([low - margin, high + margin], [box.bottom, box.top]);
  drawValueAxis(svg, y, roundTicks(y.domain, 5), box);
  drawPlaceAxis(svg, x, decades(Math.min(...all) / 1.25, Math.max(...all) * 1.25), { ...box, text: rate });
  labelLoss(svg, 0);
  add(svg, "text", { class: "axis", x: box.right, y: height - 6, "text-anchor": "end" }, "peak learning rate");
  const inside = clipTo(svg, box.left, box.top - 12, box.right - box.left, box.bottom - box.top + 14);
  for (const method of methods) drawSensitivity(inside, method, x, y, box);
}

function decades(low, high) {
  const wide = high / low > 300;
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const unit of wide ? [1] : high / low > 20 ? [1, 3] : [1, 2, 5]) ticks.push(unit * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

function drawSensitivity(parent, method, x, y, box) {
  const style = styles.get(method.label);
  const group = add(parent, "g", { "data-method": method.label });
  const usable = method.rates.filter((each) => each.mean !== null && each.lr > 0);
  const points = usable.map((each) => [x(each.lr), y(each.mean)]);
  add(group, "path", { class: "curve", d: linePath(points), fill: "none", stroke: style.color, "stroke-width": 1.6, "stroke-dasharray": style.dash, opacity: 0.85 });
  usable.forEach((each, i) => {
    const [px, py] = points[i];
    add(group, "path", { d: `M${px},${y(each.low)}V${y(each.high)}`, stroke: style.color, "stroke-width": 1.4, opacity: 0.6 });
    if (each.lr === method.best?.lr) add(group, "circle", { cx: px, cy: py, r: 8, fill: "none", stroke: style.color, "stroke-width": 1.5 });
    const mark = addMark(group, px, py, style);
    const seeds = each.finals.map(([seed, value]) => [`seed ${seed}`, loss(value)]);
    explain(mark, `${method.label}, lr ${rate(each.lr)}`, [["mean", loss(each.mean)], ...seeds]);
  });
  for (const each of method.rates.filter((one) => one.diverged.length && one.lr > 0)) {
    const mark = add(group, "path", { d: CROSS, transform: `translate(${x(each.lr)},${box.top - 5})`, stroke: style.color, "stroke-width": 2 });
    explain(mark, `${method.label}, lr ${rate(each.lr)}`, each.diverged.map((seed) => [`seed ${seed}`, "diverged"]));
  }
}

/* A chart of rows, one per method: where names end, and where the middle of each row is. */
function rows(svg, methods, width, height, { top = 22, bottom = 44, after = 14 } = {}) {
  const left = Math.min(150, 20 + 7.2 * Math.max(...methods.map((method) => method.label.length)));
  const pitch = Math.min(44, (height - top - bottom) / methods.length);
  methods.forEach((method, i) => {
    add(svg, "text", { class: "label", x: 0, y: top + pitch * (i + 0.5) + 4, fill: styles.get(method.label).color }, method.label);
  });
  return { left, right: width - after, top, bottom: top + pitch * methods.length, pitch, middle: (i) => top + pitch * (i + 0.5) };
}

function drawFinals() {
  const { svg, width, height } = canvas(document.getElementById("chart-final"));
  const methods = shown();
  if (!methods.length) return emptyChart(svg, width, height, "No method is switched on");
  const box = rows(svg, methods, width, height, { after: 62 });
  const losses = methods.flatMap((method) => method.best.finals.map(([, value]) => value));
  const low = Math.min(...losses), high = Math.max(...losses), margin = 0.08 * (high - low) + 0.001;
  const x = linear([low - margin, high + margin], [box.left, box.right]);
  drawPlaceAxis(svg, x, roundTicks(x.domain, 4), box);
  add(svg, "text", { class: "axis", x: box.right, y: box.bottom + 38, "text-anchor": "end" }, `nats per ${data.unit}`);
  methods.forEach((method, i) => {
    const style = styles.get(method.label), y = box.middle(i), best = method.best;
    const group = add(svg, "g", { "data-method": method.label });
    add(group, "line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y });
    add(group, "path", { d: `M${x(best.low)},${y}H${x(best.high)}`, stroke: style.color, "stroke-width": 6, "stroke-linecap": "round", opacity: 0.22 });
    for (const [seed, value] of best.finals) {
      explain(add(group, "circle", { cx: x(value), cy: y, r: 3.6, fill: style.color, opacity: 0.75 }), method.label, [[`seed ${seed}`, loss(value)]]);
    }
    add(group, "path", { d: `M${x(best.mean)},${y - 9}V${y + 9}`, stroke: style.color, "stroke-width": 2.4 });
    add(group, "text", { class: "value", x: width, y: y + 4, "text-anchor": "end" }, loss(best.mean));
  });
}

function drawReach() {
  const { svg, width, height } = canvas(document.getElementById("chart-reach"));
  const base = data.methods.find((method) => method.label === data.baseline);
  if (!base?.best || !base.curve.length) return emptyChart(svg, width, height, "No baseline to compare with");
  const methods = shown();
  if (!methods.length) return emptyChart(svg, width, height, "No method is switched on");
  const box = rows(svg, methods, width, height, { after: 46 });
  const [steps, , seconds] = base.curve.at(-1);
  const shares = methods.map(({ reach }) => reach && [reach.step / steps, reach.seconds / seconds]);
  const x = linear([0, Math.max(1, ...shares.flatMap((pair) => pair ?? []))], [box.left, box.right]);
  const percent = (share) => `${Math.round(share * 100)}%`;
  drawPlaceAxis(svg, x, roundTicks(x.domain, 4), { ...box, text: percent, top: box.top });
  methods.forEach((method, i) => {
    const style = styles.get(method.label), y = box.middle(i), pair = shares[i], thick = Math.min(9, box.pitch / 3.4);
    const group = add(svg, "g", { "data-method": method.label });
    if (!pair) return add(group, "text", { class: "quiet", x: box.left + 8, y: y + 4 }, "not reached");
    const bars = [[pair[0], y - thick - 1, 1], [pair[1], y + 1, 0.42]];
    for (const [share, top, opacity] of bars) {
      const bar = add(group, "path", { d: `M${box.left},${top}H${x(share)}V${top + thick}H${box.left}Z`, fill: style.color, opacity });
      explain(bar, method.label, [["steps", `${whole(method.reach.step)} (${percent(pair[0])})`], ["seconds", `${method.reach.seconds.toPrecision(4)} (${percent(pair[1])})`]]);
      add(group, "text", { class: "axis", x: x(share) + 6, y: top + thick / 2 + 4, style: "font-size:10.5px" }, percent(share));
    }
  });
}

function drawCost() {
  const { svg, width, height } = canvas(document.getElementById("chart-cost"));
  const methods = shown().filter((method) => method.cost);
  if (!methods.length) return emptyChart(svg, width, height, "No method is switched on");
  const box = rows(svg, methods, width, height);
  const half = (box.right - box.left) / 2;
  const panels = [
    ["time per step", box.left, (cost) => cost.optimizer_s, (cost) => `${duration(cost.optimizer_s)} · ${Math.round(cost.optimizer_share * 100)}%`, 96],
    ["memory of the state", box.left + half + 10, (cost) => cost.state_bytes, (cost) => bytes(cost.state_bytes), 58],
  ];
  for (const [title, left, value, text, room] of panels) {
    const x = linear([0, Math.max(...methods.map((method) => value(method.cost)))], [left, left + half - room]);
    add(svg, "text", { class: "axis", x: left, y: 12 }, title);
    methods.forEach((method, i) => {
      const style = styles.get(method.label), y = box.middle(i), thick = Math.min(14, box.pitch / 2.2);
      const group = add(svg, "g", { "data-method": method.label });
      const end = Math.max(x(value(method.cost)), left + 1);
      add(group, "path", { d: `M${left},${y - thick / 2}H${end}V${y + thick / 2}H${left}Z`, fill: style.color, opacity: 0.85 });
      add(group, "text", { class: "value", x: end + 6, y: y + 4 }, text(method.cost));
    });
  }
}

function drawAll() {
  hideTip();
  for (const draw of [drawLoss, drawRates, drawFinals, drawReach, drawCost]) draw();
  for (const row of document.querySelectorAll("tr[data-method]")) row.classList.toggle("off", hidden.has(row.dataset.method));
}

function drawSwatch(holder, label) {
  const style = styles.get(label);
  const svg = add(holder, "svg", { width: 16, height: 12, viewBox: "-8 -6 16 12", "aria-hidden": "true" });
  add(svg, "path", { d: "M-8,0H8", stroke: style.color, "stroke-width": 1.6, opacity: 0.5, "stroke-dasharray": style.dash === "none" ? "none" : "3 2" });
  addMark(svg, 0, 0, style);
}

for (const method of data.methods) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.toggle = method.label;
  button.setAttribute("aria-pressed", "true");
  drawSwatch(button, method.label);
  button.append(method.label);
  button.addEventListener("click", () => {
    if (!hidden.delete(method.label)) hidden.add(method.label);
    button.setAttribute("aria-pressed", String(!hidden.has(method.label)));
    drawAll();
  });
  document.getElementById("methods").append(button);
}
for (const holder of document.querySelectorAll("[data-swatch]")) drawSwatch(holder, holder.dataset.swatch);

const segments = document.querySelectorAll("[data-axis]");
for (const segment of segments) {
  segment.addEventListener("click", () => {
    axis = Number(segment.dataset.axis);
    for (const each of segments) each.setAttribute("aria-pressed", String(each === segment));
    drawLoss();
  });
}

function sortTable(table, column, header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const each of table.tHead.rows[0].cells) if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return up ? difference : -difference;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    header.querySelector("button")?.addEventListener("click", () => sortTable(table, column, header));
  });
}

new ResizeObserver(drawAll).observe(document.querySelector("main"));
drawAll();
