// Builds the cards, and moves all of them through time: slider, play, keys.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PLAY = "M8 5v14l11-7z", PAUSE = "M6 5h4v14H6zM14 5h4v14h-4z";
const SPEEDS = [0.5, 1, 2, 4], STEP_MS = 700;

// Shows a token's probability and its alternatives.
const tip = {
  box: $("tip"),
  show(span, card, cell) {
    const line = (name, p, kind) => {
      const row = element("div", kind);
      row.append(element("span", "word", name), element("span", "share", percent(p)));
      const bar = row.appendChild(element("span", "bar"));
      bar.appendChild(element("i")).style.setProperty("--p", p);
      return row;
    };
    const words = (token) => card.text(token).trim() || "␣";
    this.box.replaceChildren(line(words(cell.token), cell.p, "own"));
    for (const [token, p] of cell.others ?? []) this.box.append(line(words(token), p, "other"));
    const gap = cell.slot_p === undefined ? "" : ` · this gap ${percent(cell.slot_p)}`;
    this.box.append(element("p", "when", `call ${cell.born}${gap}`));
    this.box.style.setProperty("--born", card.colour(cell));
    this.box.hidden = false;
    const at = span.getBoundingClientRect(), own = this.box.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 8);
    // Below, so that the drawing stays visible; above if the controls are in the way.
    const fits = at.bottom + own.height + 16 < document.querySelector(".controls").getBoundingClientRect().top;
    const top = fits ? at.bottom + 8 : Math.max(8, at.top - own.height - 8);
    this.box.style.left = `${left}px`;
    this.box.style.top = `${top}px`;
  },
  hide() { this.box.hidden = true; },
};

function describePrompt(sample) {
  const head = element("div", "prompt");
  const { drawing, prompt, truth } = sample;
  head.append(element("h2", "", drawing?.title ?? (prompt || "Unconditional sample")));
  if (drawing || (truth && prompt)) {
    const more = head.appendChild(element("details"));
    more.append(element("summary", "", drawing ? "prompt and answer as text" : "answer in the data"));
    if (drawing) more.append(element("p", "", prompt));
    if (truth) more.append(element("p", "truth", truth));
  }
  return head;
}

function build() {
  const groups = new Map();
  const most = Math.max(...data.runs.map((run) => run.samples.length));
  for (let n = 0; n < most; n++) {
    for (const run of data.runs) {
      const sample = run.samples[n];
      if (!sample) continue;
      if (!groups.has(sample.prompt)) groups.set(sample.prompt, []);
      groups.get(sample.prompt).push(new Card(run, sample, tip));
    }
  }
  const all = [];
  for (const cards of groups.values()) {
    const section = element("section");
    section.append(describePrompt(cards[0].sample));
    const grid = section.appendChild(element("div", "cards"));
    for (const card of cards) { grid.append(card.root); all.push(card); }
    if (cards.length === 1) section.classList.add("single");
    $("samples").append(section);
  }
  if ([...groups.values()].every((cards) => cards.length === 1)) $("samples").classList.add("flow");
  return all;
}

const cards = build();
const calls = Math.max(...cards.map((card) => card.calls));
// Every moment of any card, in order; the slider counts them.
const times = [...new Set(cards.flatMap((card) => card.frames.map((frame) => frame.time)))].sort((a, b) => a - b);
const last = times.length - 1;
let now = last, timer = 0, speed = 1;
$("time").max = last;
// The legend has the marks that this page uses.
const cells = (card) => card.frames.flatMap((frame) => frame.cells);
const used = {
  "mask-mark": (card) => cells(card).some((cell) => card.role(cell.token) === "mask"),
  "back-mark": (card) => card.frames.some(({ time }) => !Number.isInteger(time)),
  "prompt-mark": (card) => !card.drawing && card.frames[0].cells.some((cell) => card.isWord(cell.token)),
  "graph-marks": (card) => card.drawing && card.sample.drawing.kind === "graph",
  "grid-marks": (card) => card.drawing && card.sample.drawing.kind === "grid",
};
for (const [id, test] of Object.entries(used)) $(id).hidden = !cards.some(test);

function show(moment) {
  now = Math.min(Math.max(moment, 0), last);
  const time = times[now];
  tip.hide();
  for (const card of cards) card.show(time);
  $("time").value = now;
  const back = Number.isInteger(time) ? "" : ", tokens taken back";
  $("time").setAttribute("aria-valuetext", `network call ${Math.floor(time)} of ${calls}${back}`);
  $("now").textContent = `${momentName(time)} / ${calls}`;
  document.documentElement.style.setProperty("--done", last ? now / last : 1);
}

function pause() {
  clearTimeout(timer);
  timer = 0;
  $("play").setAttribute("aria-label", "Play");
  $("play-icon").setAttribute("d", PLAY);
}

function play() {
  if (now === last) show(0);
  $("play").setAttribute("aria-label", "Pause");
  $("play-icon").setAttribute("d", PAUSE);
  const tick = () => {
    show(now + 1);
    if (now === last) pause();
    else timer = setTimeout(tick, STEP_MS / speed);
  };
  timer = setTimeout(tick, STEP_MS / speed);
}

const toggle = () => (timer ? pause() : play());
const jump = (moment) => { pause(); show(moment); };

$("play").onclick = toggle;
$("time").oninput = () => jump(Number($("time").value));
$("speed").onclick = () => {
  speed = SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length];
  $("speed").textContent = `${speed}×`;
};
const KEYS = {
  ArrowLeft: () => jump(now - 1),
  ArrowRight: () => jump(now + 1),
  Home: () => jump(0),
  End: () => jump(last),
  " ": toggle,
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.key === "Escape") tip.hide();
  // Buttons and summaries use the space bar themselves.
  const pressed = event.key === " " && event.target.closest?.("button, summary");
  if (pressed || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("scroll", () => tip.hide(), { passive: true });
const asked = /#call=(\d+)/.exec(location.hash);
show(asked ? times.findLastIndex((time) => time <= Number(asked[1])) : last);
