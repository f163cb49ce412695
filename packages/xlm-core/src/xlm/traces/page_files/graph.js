// Draws a graph and, on it, the edges of an answer: pairs of tokens, checked as soon as both are written.

const SVG = "http://www.w3.org/2000/svg";
const UNIT = 48, RADIUS = 15;

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

class GraphDrawing {
  constructor(drawing) {
    this.places = new Map(drawing.nodes.map((node) => [node.id, node]));
    this.edges = new Set(drawing.edges.map((edge) => edge.join(">")));
    this.good = new Set(drawing.good.map((edge) => edge.join(">")));
    this.drawing = drawing;
    this.verdicts = ["reaches the goal", "does not reach the goal"];
    const width = (Math.max(...drawing.nodes.map((node) => node.x)) + 1) * UNIT;
    const height = (Math.max(...drawing.nodes.map((node) => node.y)) + 1) * UNIT;
    this.root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "graph", role: "img" });
    this.root.style.maxWidth = `${Math.max(width * 1.15, 230)}px`;
    for (const [from, to] of drawing.edges) this.root.append(this.line(from, to, "edge"));
    this.answer = svg("g", {});
    this.root.append(this.answer);
    this.nodes = new Map();
    for (const node of drawing.nodes) this.root.append(this.node(node));
  }

  at(id) {
    const { x, y } = this.places.get(id);
    return [(x + 0.5) * UNIT, (y + 0.5) * UNIT];
  }

  path(from, to) {
    const [x1, y1] = this.at(from), [x2, y2] = this.at(to);
    if (from === to) return `M${x1 - 8} ${y1 - 10} C${x1 - 26} ${y1 - 44} ${x1 + 26} ${y1 - 44} ${x1 + 8} ${y1 - 10}`;
    if (!this.edges.has(`${from}>${to}`)) {
      // Not in the graph: an arc, so that it does not hide an edge of the graph.
      const lift = Math.max(30, Math.abs(x2 - x1) / 3);
      return `M${x1} ${y1} Q${(x1 + x2) / 2 + (x1 === x2 ? lift : 0)} ${(y1 + y2) / 2 - (x1 === x2 ? 0 : lift)} ${x2} ${y2}`;
    }
    const middle = (x1 + x2) / 2;
    return `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
  }

  line(from, to, kind) {
    const group = svg("g", { class: kind });
    const path = svg("path", { d: this.path(from, to), pathLength: 1 });
    group.append(path);
    const length = path.getTotalLength ? path.getTotalLength() : 0;
    const reach = RADIUS + (to === this.drawing.goal ? 6 : 2);
    if (length > 2 * reach) {
      // The arrowhead is where the line meets the circle.
      const tip = path.getPointAtLength(length - reach), back = path.getPointAtLength(length - reach - 6);
      const angle = (Math.atan2(tip.y - back.y, tip.x - back.x) * 180) / Math.PI;
      group.append(svg("path", { class: "head", d: "M0 0L-7 -4L-7 4Z", transform: `translate(${tip.x} ${tip.y}) rotate(${angle})` }));
    }
    return group;
  }

  // A cross on a wrong edge, so that it can be told from a right one without colors; where no node hides it.
  cross(path) {
    const length = path.getTotalLength ? path.getTotalLength() : 0;
    const nodes = [...this.places.keys()].map((id) => this.at(id));
    const room = ({ x, y }) => Math.min(...nodes.map(([a, b]) => Math.hypot(x - a, y - b)));
    const points = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8].map((share) => (length ? path.getPointAtLength(share * length) : { x: 0, y: 0 }));
    const place = points.reduce((best, point) => (room(point) > room(best) + 1 ? point : best));
    const mark = svg("g", { class: "cross", transform: `translate(${place.x} ${place.y})` });
    mark.append(svg("circle", { r: 7.5 }), svg("path", { d: "M-3.6 -3.6L3.6 3.6M-3.6 3.6L3.6 -3.6" }));
    return mark;
  }

  node({ id, label }) {
    const [x, y] = this.at(id);
    const kinds = ["node"];
    if (id === this.drawing.source) kinds.push("source");
    if (id === this.drawing.goal) kinds.push("goal");
    const group = svg("g", { class: kinds.join(" "), transform: `translate(${x} ${y})` });
    if (id === this.drawing.goal) group.append(svg("circle", { r: RADIUS + 4, class: "outer" }));
    group.append(svg("circle", { r: RADIUS }));
    const text = svg("text", { dy: "0.35em" });
    text.textContent = label ?? id;
    group.append(text);
    this.nodes.set(id, group);
    return group;
  }

  kind(from, to) {
    const name = `${from}>${to}`;
    if (this.good.has(name)) return "right";
    return this.edges.has(name) ? "wrong" : "wrong invented";
  }

  // `answer`: the answer's words at their final positions; null if not written yet.
  show(answer, colourOf, frame) {
    this.answer.replaceChildren();
    for (const group of this.nodes.values()) group.classList.remove("named");
    const counts = { right: 0, wrong: 0 };
    for (const cell of answer) {
      const group = cell && this.nodes.get(cell.label);
      if (group) {
        group.classList.add("named");
        group.style.setProperty("--born", colourOf(cell));
      }
    }
    for (let n = 0; n + 1 < answer.length; n += 2) {
      const [from, to] = [answer[n], answer[n + 1]];
      if (!from || !to || !this.places.has(from.label) || !this.places.has(to.label)) continue;
      const kind = this.kind(from.label, to.label);
      const fresh = Math.max(from.born, to.born) === frame && !calm.matches ? " fresh" : "";
      const line = this.line(from.label, to.label, `written ${kind}${fresh}`);
      if (kind !== "right") line.append(this.cross(line.querySelector("path")));
      this.answer.append(line);
      counts[kind.split(" ")[0]] += 1;
    }
    const said = `${counts.right} right, ${counts.wrong} wrong`;
    this.root.setAttribute("aria-label", `Graph from ${this.drawing.source} to ${this.drawing.goal}: ${said} edges of the answer`);
    return counts;
  }

  // Whether the words lead from the source to the goal along edges of the graph.
  solved(words) {
    if (words.length < 2 || words.length % 2) return false;
    let here = this.drawing.source;
    for (let n = 0; n < words.length; n += 2) {
      if (words[n] !== here || !this.edges.has(`${words[n]}>${words[n + 1]}`)) return false;
      here = words[n + 1];
    }
    return here === this.drawing.goal;
  }
}
