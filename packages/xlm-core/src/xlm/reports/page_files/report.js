// Draws the learning curves, and shows the values under the pointer or the arrow keys.
const data = JSON.parse(document.getElementById("data").textContent);
const holder = document.getElementById("panels");
const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 236, LEFT = 50, RIGHT = 10, TOP = 24, BOTTOM = 42, KEYBOARD_STOPS = 50, FEW = 40;
const hidden = new Set();
const NAMES = { steps: "optimizer steps", minutes: "minutes of training" };
let axis = "steps", logarithmic = document.getElementById("log")?.checked ?? false;

function svg(parent, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function html(parent, name, className, text) {
  const node = document.createElement(name);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// Round numbers from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let k = Math.ceil(low / size - 1e-9); k * size <= high + size * 1e-9; k++) found.push(k * size);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const m of [1, 2, 5]) if (m * 10 ** power >= low && m * 10 ** power <= high) found.push(m * 10 ** power);
  return found.length >= 2 ? found : ticks(low, high, 4);
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size > 0 && size < 1e-4) return value.toExponential(1).replace(".0e", "e");
  return String(+value.toPrecision(4));
}

// A scale from values to pixels, and its ticks.
function scale(values, from, to, { asLog = false, zero = false, share = false }) {
  let low = share ? 0 : Math.min(...values), high = share ? 1 : Math.max(...values);
  const log = asLog && low > 0 && high > low;
  if (!log && zero && low > 0 && low < 0.4 * high) low = 0;
  // A single value has its own size as the axis.
  if (low === high) { low = Math.min(low, 0); high = Math.max(high, 0) || 1; }
  const f = log ? Math.log : (v) => v;
  const at = (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
  return { at, ticks: log ? logTicks(low, high) : ticks(low, high, 5), low, high };
}

class Panel {
  constructor(panel) {
    this.panel = panel;
    this.figure = html(holder, "figure", "panel");
    html(this.figure, "figcaption", "", panel.label);
    this.svg = svg(this.figure, "svg", { tabindex: 0, role: "img" });
    this.tip = html(this.figure, "div", "tip");
    this.tip.hidden = true;
    this.tip.setAttribute("aria-live", "polite");
    this.svg.addEventListener("pointermove", (event) => this.showAt(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerdown", (event) => this.showAt(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.hide());
    this.svg.addEventListener("blur", () => this.hide());
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  draw() {
    const width = this.svg.clientWidth;
    const curves = this.panel.curves.filter((curve) => !hidden.has(curve.run));
    this.svg.replaceChildren();
    this.hide();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.curves = curves;
    const names = curves.map((curve) => `${data.runs[curve.run]} ends at ${short(curve.values.at(-1))}`);
    this.svg.setAttribute("aria-label", `${this.panel.label} against ${axis}: ${names.join(", ")}`);
    if (!curves.length || width < 100) return;
    const x = (this.x = scale(curves.flatMap((curve) => curve[axis]), LEFT, width - RIGHT, { zero: true }));
    const { share, loss, unit } = this.panel;
    const y = scale(curves.flatMap((curve) => curve.values), HEIGHT - BOTTOM, TOP, { asLog: logarithmic && loss, zero: true, share });
    svg(this.svg, "text", { class: "axis", x: 0, y: 12 }, unit);
    svg(this.svg, "text", { class: "axis", x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, NAMES[axis]);
    for (const value of y.ticks) {
      svg(this.svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y.at(value), y2: y.at(value) });
      svg(this.svg, "text", { x: LEFT - 6, y: y.at(value) + 4, "text-anchor": "end" }, short(value));
    }
    for (const value of x.ticks)
      svg(this.svg, "text", { x: Math.min(x.at(value), width - 16), y: HEIGHT - 25, "text-anchor": "middle" }, short(value));
    for (const curve of curves) {
      const colour = `c${curve.run % data.colours}`;
      const points = curve.values.map((value, i) => `${x.at(curve[axis][i]).toFixed(1)},${y.at(value).toFixed(1)}`);
      svg(this.svg, "polyline", { class: `line ${colour}${curve.run >= data.colours ? " many" : ""}`, points: points.join(" ") });
      if (points.length <= FEW)
        for (const point of points) svg(this.svg, "circle", { class: `dot ${colour}`, r: 2.6, cx: point.split(",")[0], cy: point.split(",")[1] });
    }
    this.cursor = svg(this.svg, "line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  }

  showAt(pixel) {
    if (!this.curves.length) return;
    const { low, high, at } = this.x;
    const width = this.svg.clientWidth;
    const pointed = low + ((Math.min(Math.max(pixel, LEFT), width - RIGHT) - LEFT) / (width - RIGHT - LEFT)) * (high - low);
    const nearest = this.curves.map((curve) => {
      let best = 0;
      curve[axis].forEach((value, i) => { if (Math.abs(value - pointed) < Math.abs(curve[axis][best] - pointed)) best = i; });
      return { curve, at: curve[axis][best], value: curve.values[best] };
    });
    const chosen = nearest.reduce((a, b) => (Math.abs(b.at - pointed) < Math.abs(a.at - pointed) ? b : a)).at;
    this.stop = at(chosen);
    this.cursor.setAttribute("x1", this.stop);
    this.cursor.setAttribute("x2", this.stop);
    this.cursor.setAttribute("visibility", "visible");
    this.tip.replaceChildren();
    html(this.tip, "div", "soft", axis === "steps" ? `step ${short(chosen)}` : `${chosen.toFixed(1)} min`);
    for (const { curve, value } of nearest) {
      const row = html(this.tip, "div", "");
      html(row, "span", `run c${curve.run % data.colours}`, data.runs[curve.run]);
      html(row, "span", "", short(value));
    }
    this.tip.hidden = false;
    const left = this.svg.offsetLeft + this.stop, room = this.figure.clientWidth - this.tip.offsetWidth - 4;
    const beside = left + 12 <= room ? left + 12 : left - this.tip.offsetWidth - 12;
    this.tip.style.left = `${Math.min(Math.max(beside, 4), Math.max(room, 4))}px`;
  }

  hide() {
    this.tip.hidden = true;
    this.cursor?.setAttribute("visibility", "hidden");
  }

  key(event) {
    const first = LEFT, last = this.svg.clientWidth - RIGHT, move = (last - first) / KEYBOARD_STOPS;
    const from = this.tip.hidden ? last : this.pixel ?? last;
    const target = { ArrowLeft: from - move, ArrowRight: from + move, Home: first, End: last }[event.key];
    if (event.key === "Escape") return this.hide();
    if (target === undefined) return;
    event.preventDefault();
    this.pixel = Math.min(Math.max(target, first), last);
    this.showAt(this.pixel);
  }
}

// Says where a table has columns that are not visible.
for (const box of document.querySelectorAll(".scroll")) {
  const update = () => {
    const rest = box.scrollWidth - box.clientWidth;
    box.previousElementSibling.hidden = rest < 2;
    box.classList.toggle("cut", rest - box.scrollLeft > 2);
  };
  new ResizeObserver(update).observe(box);
  box.addEventListener("scroll", update, { passive: true });
}

if (holder) {
  const panels = data.panels.map((panel) => new Panel(panel));
  const redraw = () => panels.forEach((panel) => panel.draw());
  for (const button of document.querySelectorAll(".toggle"))
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      if (!hidden.delete(run)) hidden.add(run);
      button.setAttribute("aria-pressed", String(!hidden.has(run)));
      redraw();
    });
  for (const input of document.querySelectorAll("input[name=x]"))
    input.addEventListener("change", () => { axis = input.value; redraw(); });
  document.getElementById("log").addEventListener("change", (event) => { logarithmic = event.target.checked; redraw(); });
}
