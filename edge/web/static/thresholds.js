// The explorer of thresholds: move one, and see what it would have done. Nothing is changed from here.
import { ask } from "./api.js";
import { choose, count, figure, h, missing, percent, plain, s } from "./dom.js";
import { outcome } from "./odds.js";
import { Plot, chart } from "./plot.js";

const BINS = 48;
const MOST = 3; // thresholds; what scored higher is in the last bin
const STEP = 0.01;
const ROWS = [
  ["calibration", "False rejects, calibration", "good frames of the calibration that would be rejected"],
  ["falseRejects", "False rejects, reviewed", "frames that people called good and that would be rejected"],
  ["escapes", "Escapes, reviewed", "frames that people called defective and that would pass"],
  ["rejected", "Rejected of all", "stored frames that would be rejected"],
];
const kept = { recipe: "", view: "" };

export function showThresholds(main, _, back) {
  const shown = new Explorer(main);
  shown.keys = { Escape: back, ArrowLeft: () => shown.step(-STEP), ArrowRight: () => shown.step(STEP) };
  return shown;
}

class Explorer {
  constructor(main) {
    this.threshold = 1;
    this.bar = h("div", { class: "bar" }, h("h2", {}, "Thresholds"));
    this.body = h("div", { class: "explorer" });
    this.proposal = h("section", { class: "panel", "aria-label": "What reviews would change" });
    main.append(this.bar, this.body, this.proposal);
    this.open();
  }

  close() { this.closed = true; }

  async open() {
    try {
      this.facets = await ask("api/v1/facets");
    } catch (error) {
      return this.body.replaceChildren(missing("The explorer cannot be shown", error));
    }
    this.pickers = h("span", { class: "group" });
    this.bar.append(this.pickers);
    this.pick();
  }

  pick() {
    const { recipes, views } = this.facets;
    if (!recipes.length) return this.body.replaceChildren(missing("There is nothing to explore yet", { message: "No frame has been judged. Thresholds can be moved here once there are scores." }));
    if (!recipes.includes(kept.recipe)) kept.recipe = recipes[0] ?? "";
    const own = views?.[kept.recipe] ?? [];
    if (!own.includes(kept.view)) kept.view = own[0] ?? "";
    this.pickers.replaceChildren(choose("Recipe", recipes.map((name) => [name, name]), kept.recipe, (value) => { kept.recipe = value; this.pick(); }),
      choose("View", own.map((name) => [name, name]), kept.view, (value) => { kept.view = value; this.load(); }));
    this.load();
    this.propose();
  }

  async load() {
    const asked = `${kept.recipe}\n${kept.view}`;
    try {
      const found = await ask("api/v1/explorer", { recipe: kept.recipe, view: kept.view });
      if (this.closed || asked !== `${kept.recipe}\n${kept.view}`) return;
      this.found = found;
      this.threshold = 1;
      this.draw();
    } catch (error) {
      this.body.replaceChildren(missing("There is nothing to explore", error));
    }
  }

  draw() {
    const { found } = this;
    const scores = [...found.calibration, ...found.frames.map((one) => one.score)].filter((score) => score != null);
    this.top = Math.min(MOST, Math.max(1.5, ...scores) * 1.02);
    const bins = histogram(found, this.top);
    const highest = Math.max(1, ...bins.map((bin) => Math.max(bin.calibration, bin.OK + bin.NotOK + bin.unknown)));
    const plot = new Plot({ label: `Scores of view ${found.view}; calibration below the line, stored frames above`, x: [0, this.top], y: [-highest, highest], width: 1320, height: 330, unit: "stored frames ↑  calibration ↓", told: (value) => count(Math.abs(value)) });
    const width = this.top / BINS;
    bins.forEach((bin, at) => {
      const range = `${figure(at * width)} to ${figure((at + 1) * width)}`;
      let below = 0;
      for (const name of ["OK", "unknown", "NotOK"]) {
        if (bin[name]) plot.bar(at * width, (at + 1) * width, below, below + bin[name], `truth-${name}`, `${range}: ${count(bin[name])} ${name === "unknown" ? "not reviewed" : `called ${name}`}`);
        below += bin[name];
      }
      if (bin.calibration) plot.bar(at * width, (at + 1) * width, -bin.calibration, 0, "calibration", `${range}: ${count(bin.calibration)} of calibration`);
    });
    const at = plot.px(1);
    plot.add(s("line", { class: "threshold", x1: at, x2: at, y1: 12, y2: plot.bottom }), s("text", { class: "threshold", x: at + 12, y: 24 }, "now"));
    this.line = s("line", { class: "moved", y1: 12, y2: plot.bottom });
    this.grip = s("rect", { class: "grip", y: 8, width: 14, height: 24, rx: 4 });
    plot.add(this.line, this.grip);
    this.plot = plot;
    this.drag(plot.svg);
    this.slider = h("input", { type: "range", min: 0, max: this.top.toFixed(2), step: STEP, value: this.threshold, "aria-label": "Threshold, 1 is the present one", oninput: () => this.set(Number(this.slider.value)) });
    this.number = h("input", { type: "number", min: 0, step: STEP, value: this.threshold, "aria-label": "Threshold as a number", onchange: () => this.set(Number(this.number.value)) });
    this.rows = h("tbody");
    this.raw = h("span", { class: "faint" });
    this.body.replaceChildren(...[
      chart(`View ${found.view}`, `present threshold: raw ${figure(found.thresholdRaw)}, ${plain(found.basis ?? "–")}${found.falseRejectBound == null ? "" : `, at most ${percent(found.falseRejectBound)} false rejects promised`}`, plot.svg,
        ["Score from", "Calibration", "Called good", "Not reviewed", "Called defective"], bins.map((bin, n) => [figure(n * width), bin.calibration, bin.OK, bin.unknown, bin.NotOK])),
      h("p", { class: "legend" }, h("span", { class: "swatch calibration" }, "calibration"), h("span", { class: "swatch truth-OK" }, "called good"), h("span", { class: "swatch truth-unknown" }, "not reviewed"), h("span", { class: "swatch truth-NotOK" }, "called defective")),
      h("div", { class: "mover" }, this.slider, this.number, this.raw, h("button", { type: "button", onclick: () => this.set(1) }, "Present one")),
      h("div", { class: "scroll" }, h("table", { id: "outcome", "aria-live": "polite" }, h("caption", { class: "unseen" }, "What this threshold would have done"),
        h("thead", {}, h("tr", {}, ["", "at the moved threshold", "95 % interval", "at the present one", "change"].map((name) => h("th", { scope: "col" }, name)))), this.rows)),
      found.isCut ? h("p", { class: "note" }, `Stored frames: only the newest ${count(found.frames.length)} are counted.`) : null,
      h("p", { class: "note" }, "Nothing is changed from here. Intervals: Wilson. To take over what reviews say: ", h("code", {}, `edge calibrate --recipe ${kept.recipe} --with-reviews`), ", which shows what would change; with --accept it is taken over.")].filter(Boolean));
    this.set(this.threshold);
  }

  step(by) {
    if (!this.found || document.activeElement === this.slider) return false;
    return this.set(Math.round((this.threshold + by) / STEP) * STEP);
  }

  set(value) {
    if (!Number.isFinite(value)) return;
    this.threshold = Math.min(this.top, Math.max(0, Number(value.toFixed(4))));
    this.slider.value = this.threshold;
    this.number.value = this.threshold;
    const at = this.plot.px(this.threshold);
    this.line.setAttribute("x1", at);
    this.line.setAttribute("x2", at);
    this.grip.setAttribute("x", at - 7);
    this.raw.textContent = this.found.thresholdRaw == null ? "" : `raw ${figure(this.threshold * this.found.thresholdRaw)}`;
    const moved = outcome(this.found, this.threshold);
    const now = outcome(this.found, 1);
    this.rows.replaceChildren(...ROWS.map(([name, title, said]) => row(name, title, said, moved[name], now[name])));
  }

  drag(svg) {
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      this.set(this.plot.back(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      move(event);
    });
    svg.addEventListener("pointermove", (event) => { if (svg.hasPointerCapture(event.pointerId)) move(event); });
  }

  async propose() {
    this.proposal.replaceChildren(h("h2", {}, "What reviews would change"));
    try {
      const found = await ask("api/v1/reviews/proposal", { recipe: kept.recipe });
      this.proposal.append(found.why ? h("p", {}, found.why) : proposal(found));
    } catch (error) {
      this.proposal.append(h("p", { class: "faint" }, `It cannot be said: ${error.message}.`));
    }
  }
}

function histogram(found, top) {
  const bins = Array.from({ length: BINS }, () => ({ calibration: 0, OK: 0, NotOK: 0, unknown: 0 }));
  const bin = (score) => bins[Math.min(BINS - 1, Math.max(0, Math.floor((score / top) * BINS)))];
  for (const score of found.calibration) bin(score).calibration += 1;
  for (const { score, truth } of found.frames) if (score != null) bin(score)[truth === "OK" || truth === "NotOK" ? truth : "unknown"] += 1;
  return bins;
}

const share = ({ found, all }) => (all ? `${count(found)} of ${count(all)} (${percent(found / all)})` : "none known");

function row(name, title, said, moved, now) {
  const change = moved.found - now.found;
  return h("tr", { "data-name": name }, h("th", { scope: "row", title: said }, title), h("td", { class: "number" }, share(moved)),
    h("td", { class: "number" }, moved.interval ? moved.interval.map((one) => percent(one)).join(" – ") : "–"), h("td", { class: "number" }, share(now)),
    h("td", { class: "number" }, change > 0 ? `+${count(change)}` : count(change)));
}

const worded = (name) => plain(name.replace(/([A-Z]+)/g, " $1").toLowerCase()).trim();
const DIGEST = /^[0-9a-f]{64}$/;
const DIGEST_SHOWN = 12;

/** The daemon's proposal as it tells it: what it proves in a sentence, tables of its lists, the rest as facts. */
function proposal({ statement, recipe, ...found }) {
  const shown = h("div", { class: "proposal" }, statement ? h("p", {}, statement) : null);
  const facts = h("dl", { class: "facts wide" });
  for (const [name, value] of Object.entries(found)) {
    const isList = Array.isArray(value) && value.length > 0;
    if (isList) shown.append(h("h3", {}, `${worded(name)} (${count(value.length)})`), list(value));
    else if (value && typeof value === "object" && !Array.isArray(value)) {
      for (const [key, one] of Object.entries(value)) facts.append(h("dt", {}, `${worded(name)}, ${worded(key)}`), h("dd", {}, told(one)));
    } else facts.append(h("dt", {}, worded(name)), h("dd", {}, Array.isArray(value) ? "none" : told(value)));
  }
  shown.append(facts);
  return shown;
}

const told = (value) => (typeof value === "number" ? figure(value) : DIGEST.test(value) ? value.slice(0, DIGEST_SHOWN) : value && typeof value === "object" ? JSON.stringify(value) : String(value ?? "–"));

function list(rows) {
  if (!rows.length) return h("p", { class: "faint" }, "none");
  if (typeof rows[0] !== "object") return h("p", {}, rows.map(told).join(", "));
  const columns = [...new Set(rows.flatMap(Object.keys))];
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, worded(name))))),
    h("tbody", {}, rows.slice(0, 100).map((one) => h("tr", {}, columns.map((name) => h("td", {}, name === "resultId" ? h("a", { href: `#/verdict/${encodeURIComponent(one[name])}` }, told(one[name])) : told(one[name]))))))));
}
