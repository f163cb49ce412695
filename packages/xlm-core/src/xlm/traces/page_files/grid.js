// Draws a board of cells and, in it, the words of an answer: each checked as soon as it is written.

const CELL = 36;

class GridDrawing {
  constructor(drawing) {
    this.drawing = drawing;
    this.rows = drawing.cells.length;
    this.columns = drawing.cells[0].length;
    // The cells of the answer's words, in order: by default every cell.
    this.fills = drawing.fills ?? drawing.cells.flatMap((row, r) => row.map((_, c) => [r, c]));
    const [width, height] = [this.columns * CELL, this.rows * CELL];
    this.root = svg("svg", { viewBox: `-2 -2 ${width + 4} ${height + 4}`, class: "board", role: "img" });
    this.root.style.maxWidth = `${width + 4}px`;
    this.cells = drawing.cells.map((row, r) => row.map((label, c) => this.cell(label, r, c)));
    const [down, across] = drawing.box ?? [this.rows, this.columns];
    for (let r = 0; r <= this.rows; r += down) this.root.append(svg("path", { class: "box", d: `M0 ${r * CELL}H${width}` }));
    for (let c = 0; c <= this.columns; c += across) this.root.append(svg("path", { class: "box", d: `M${c * CELL} 0V${height}` }));
    this.verdicts = ["solved", "not solved"];
  }

  cell(label, r, c) {
    const group = svg("g", { class: "cell", transform: `translate(${c * CELL} ${r * CELL})` });
    const text = svg("text", { x: CELL / 2, y: CELL / 2, dy: "0.35em" });
    if (label !== null) {
      group.classList.add("given");
      text.textContent = label;
    }
    // A cross that is shown in a wrong cell.
    const cross = svg("path", { class: "cross", d: `M${CELL - 9} 4l5 5m0 -5l-5 5` });
    group.append(svg("rect", { width: CELL, height: CELL }), text, cross);
    this.root.append(group);
    return group;
  }

  // "right", "wrong", or "" if unknown.
  kind(label, r, c) {
    const given = this.drawing.cells[r][c];
    const right = given ?? this.drawing.right?.[r][c];
    return right === undefined || right === null ? "" : right === label ? "right" : "wrong";
  }

  // `answer`: the answer's words at their final positions; null if not written yet.
  show(answer, colourOf, frame) {
    const counts = { right: 0, wrong: 0 };
    this.fills.forEach(([r, c], n) => {
      const cell = answer[n] ?? null, group = this.cells[r][c], given = this.drawing.cells[r][c];
      const kind = cell ? this.kind(cell.label, r, c) : "";
      // A given cell that is written again with the same value stays a given cell.
      const written = cell !== null && !(given !== null && kind === "right");
      group.classList.toggle("written", written);
      group.classList.toggle("fresh", written && cell.born === frame);
      for (const name of ["right", "wrong"]) group.classList.toggle(name, written && kind === name);
      if (written) group.style.setProperty("--born", colourOf(cell));
      group.querySelector("text").textContent = written ? cell.label : given ?? "";
      if (written && kind) counts[kind] += 1;
    });
    const said = `${counts.right} right, ${counts.wrong} wrong`;
    this.root.setAttribute("aria-label", `Board of ${this.rows} × ${this.columns}: ${said} cells of the answer`);
    return counts;
  }

  // Whether every open cell is filled correctly; null if there is no solution.
  solved(words) {
    if (!this.drawing.right) return null;
    return words.length === this.fills.length && this.fills.every(([r, c], n) => this.kind(words[n], r, c) === "right");
  }
}

// How a task's drawing is shown, by its kind.
const DRAWINGS = { graph: GraphDrawing, grid: GridDrawing };
