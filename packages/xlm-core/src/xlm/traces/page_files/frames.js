// The cells of a row at every moment: 0 is the given row, n is after call n, n + ½ is after tokens were taken back
// following that call. Tokens added or cut off without a call belong to the moment before.
// A cell keeps its key while it moves, and when a mask becomes a token, so that motion can be shown.

function framesOf(sample) {
  let key = 0;
  let cells = sample.given.map((token, place) => ({
    key: key++, token, born: 0, given: true, prompt: place < sample.answer_start,
  }));
  const frames = [{ cells, stop: null, time: 0 }];
  for (const step of sample.steps) {
    const { time, stop } = frames[frames.length - 1];
    if (step.call > 0) frames.push({ cells: null, stop: step.stop ?? null, time: Math.floor(time) + 1 });
    else if (step.changes.some((change) => change.do === "write") && Number.isInteger(time)) {
      frames.push({ cells: null, stop, time: time + 0.5 });
    }
    cells = cells.slice();
    const born = frames[frames.length - 1].time;
    for (const change of step.changes) {
      if (change.do === "insert") cells.splice(change.at, 0, { ...change, key: key++, born });
      else if (change.do === "write") cells[change.at] = { ...change, key: cells[change.at].key, born };
      else cells.splice(change.at, 1);
    }
    frames[frames.length - 1].cells = cells;
  }
  return frames;
}

// `3`, or `3½` for what was taken back after the third call.
const momentName = (time) => `${Math.floor(time)}${Number.isInteger(time) ? "" : "½"}`;

// Early tokens are blue, late ones yellow: the colors of --order.
const STOPS = getComputedStyle(document.documentElement).getPropertyValue("--order").split(",")
  .map((color) => [1, 3, 5].map((at) => parseInt(color.trim().slice(at, at + 2), 16)));

function colourAt(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return `rgb(${STOPS[low].map((c, i) => Math.round(c + (STOPS[low + 1][i] - c) * (at - low))).join(" ")})`;
}

function element(name, classes, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
