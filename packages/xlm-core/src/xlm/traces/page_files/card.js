// One sample: its drawing if the task has one, its row of tokens, and its result.

class Card {
  constructor(run, sample, tip) {
    this.run = run;
    this.sample = sample;
    this.tip = tip;
    this.frames = framesOf(sample);
    this.roles = new Map(Object.entries(run.special).reverse().map(([role, token]) => [token, role]));
    this.spans = new Map();
    this.root = element("article", "card");
    const head = element("header");
    head.append(element("h3", "", run.name));
    this.count = head.appendChild(element("span", "count"));
    this.root.append(head);
    const Drawing = sample.drawing && DRAWINGS[sample.drawing.kind];
    if (Drawing) {
      this.drawing = new Drawing(sample.drawing);
      this.root.append(this.drawing.root);
    }
    this.row = this.root.appendChild(element("p", this.drawing ? "row words" : "row"));
    this.foot = this.root.appendChild(element("footer"));
    this.stop = this.foot.appendChild(element("span", "stop"));
    this.verdict = this.foot.appendChild(element("span", "verdict"));
    // The final position of each cell, after all insertions.
    const last = this.frames[this.frames.length - 1].cells;
    this.end = last.filter((cell) => !cell.prompt && this.isWord(cell.token)).map((cell) => cell.key);
  }

  get calls() { return Math.floor(this.frames[this.frames.length - 1].time); }

  role(token) { return this.roles.get(token); }

  isWord(token) { return !this.roles.has(token) || this.role(token) === "unk"; }

  text(token) { return this.run.tokens[token] ?? `#${token}`; }

  colour(cell) { return colourAt(this.calls > 1 ? (cell.born - 1) / (this.calls - 1) : 0); }

  show(now) {
    const frame = this.frames.findLast(({ time }) => time <= now);
    const { cells, stop, time: at } = frame;
    const done = frame === this.frames[this.frames.length - 1];
    const before = calm.matches ? null : this.boxes();
    // Without a drawing, the prompt's words come before the answer.
    const shown = cells.filter((cell) => !cell.prompt || (!this.drawing && this.isWord(cell.token)));
    const kept = new Set(shown.map((cell) => cell.key));
    for (const [key, span] of this.spans) {
      if (!kept.has(key)) { span.remove(); this.spans.delete(key); }
    }
    shown.forEach((cell, n) => {
      const span = this.span(cell, at);
      if (this.row.children[n] !== span) this.row.insertBefore(span, this.row.children[n] ?? null);
    });
    if (before) this.move(before);
    this.count.textContent = `${momentName(at)} / ${this.calls}`;
    this.root.classList.toggle("done", done);
    this.stop.textContent = stop === null ? "" : `complete: ${percent(stop)}`;
    this.judge(cells, at, done);
  }

  span(cell, at) {
    let span = this.spans.get(cell.key);
    const role = this.role(cell.token);
    const state = `${cell.token}/${cell.born}/${cell.born === at && !cell.given}`;
    if (span && span.dataset.state === state) return span;
    if (!span) {
      span = element("span", "token");
      this.spans.set(cell.key, span);
    }
    const text = this.text(cell.token);
    span.dataset.state = state;
    span.className = "token";
    if (role) span.classList.add("special", role);
    span.classList.toggle("given", Boolean(cell.given));
    span.classList.toggle("asked", Boolean(cell.prompt));
    span.classList.toggle("spaced", /^\s/.test(text) || Boolean(role));
    span.classList.toggle("fresh", cell.born === at && !cell.given && role !== "mask");
    const back = role === "mask" && cell.born === at && !Number.isInteger(at);
    span.classList.toggle("back", back);
    span.textContent = role === "mask" ? "" : role === "eos" ? "end" : text.trim() || "␣";
    span.style.setProperty("--born", cell.given ? "transparent" : this.colour(cell));
    if (cell.p === undefined) {
      span.removeAttribute("tabindex");
      span.setAttribute("aria-label", back ? "mask, taken back" : role === "mask" ? "mask" : text);
    } else {
      span.tabIndex = 0;
      span.setAttribute("aria-label", `${text.trim()}, call ${cell.born}, probability ${percent(cell.p)}`);
    }
    span.onpointerenter = span.onfocus = () => cell.p !== undefined && this.tip.show(span, this, cell);
    span.onpointerleave = span.onblur = () => this.tip.hide();
    return span;
  }

  boxes() {
    const base = this.row.getBoundingClientRect();
    const found = new Map();
    for (const [key, span] of this.spans) {
      const box = span.getBoundingClientRect();
      found.set(key, [box.left - base.left, box.top - base.top, span.classList.contains("mask")]);
    }
    return found;
  }

  // Tokens move from their old to their new position; new ones grow, filled masks light up.
  move(before) {
    const base = this.row.getBoundingClientRect();
    const first = !before.size;
    for (const [key, span] of this.spans) {
      for (const running of span.getAnimations()) running.cancel();
      if (first) continue;
      const was = before.get(key);
      const box = span.getBoundingClientRect();
      if (!was) {
        span.animate([{ opacity: 0, scale: 0.4 }, { opacity: 1, scale: 1 }], { duration: 260, easing: "ease-out" });
        continue;
      }
      const x = was[0] - (box.left - base.left), y = was[1] - (box.top - base.top);
      const opened = was[2] && !span.classList.contains("mask");
      if (x || y || opened) {
        const from = { translate: `${x}px ${y}px` }, to = { translate: "0 0" };
        if (opened) { from.opacity = 0.2; to.opacity = 1; }
        span.animate([from, to], { duration: 260, easing: "cubic-bezier(.2,.7,.2,1)" });
      }
    }
  }

  judge(cells, at, done) {
    const now = new Map(cells.map((cell) => [cell.key, cell]));
    const { truth, text } = this.sample;
    let right = truth === null ? null : truth === text;
    let said = right === null ? "" : right ? "as in the data" : "not as in the data";
    if (this.drawing) {
      const answer = this.end.map((key) => now.get(key)).map((cell) => {
        const there = cell && this.isWord(cell.token);
        return there ? { label: this.text(cell.token).trim(), born: cell.born } : null;
      });
      const counts = this.drawing.show(answer, (cell) => this.colour(cell), at);
      const solved = this.drawing.solved(answer.map((cell) => cell?.label));
      if (solved !== null) {
        right = solved;
        said = this.drawing.verdicts[solved ? 0 : 1];
      }
      if (!done) said = counts.right + counts.wrong ? `${counts.right} right, ${counts.wrong} wrong` : "";
    }
    this.verdict.textContent = done || this.drawing ? said : "";
    this.verdict.classList.toggle("right", done && right === true);
    this.verdict.classList.toggle("wrong", done && right === false);
  }
}

function percent(p) {
  if (p > 0 && p < 0.001) return "< 0.1 %";
  return `${(100 * p).toFixed(p > 0.1 && p < 0.9995 ? 0 : 1).replace(/\.0$/, "")} %`;
}
