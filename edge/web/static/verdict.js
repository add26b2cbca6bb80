// One verdict: the picture and its layers, why it was judged so, and what people said of it.
import { detail, news } from "./api.js";
import { badge, h, missing, moment, spoken } from "./dom.js";
import { IDENTITY } from "./projection.js";
import { Pyramid } from "./pyramid.js";
import { Review } from "./review.js";
import { Gaze, Stage } from "./stage.js";
import { defects, why } from "./why.js";

const LAYERS = ["original", "preprocessed", "reconstruction", "map"];
const OPACITY = "edge.opacity";
const BLINK_MS = 600;
const MOVE_PX = 80;
const DEFECT_MARGIN = 4;

export function showVerdict(main, [id], back) {
  const shown = { keys: { Escape: back }, close() {} };
  detail(id).then((found) => {
    if (shown.closed) return;
    const viewer = new Viewer(main, found, back);
    shown.keys = viewer.keys;
    shown.close = () => viewer.close();
  }, (error) => main.replaceChildren(missing("This verdict cannot be shown", error)));
  shown.close = () => { shown.closed = true; };
  return shown;
}

class Viewer {
  constructor(main, found, back) {
    this.found = found;
    this.verdict = found.verdict;
    this.began = performance.now();
    this.pyramids = new Map();
    const size = [found.pictures?.original, this.verdict.image].find((one) => one?.width) ?? {}; // the frame itself may be gone
    this.gaze = new Gaze(size.width || 1, size.height || 1);
    const name = `Part ${this.verdict.partId ?? "–"}, view ${this.verdict.view ?? "–"}, ${spoken(this.verdict.resultEvaluation)}`;
    this.stage = new Stage(this.gaze, name);
    this.beside = null;
    this.opacity = Number(localStorage.getItem(OPACITY) ?? 0.5);
    this.review = new Review(this.verdict, found.reviews ?? []);
    this.build(main);
    this.stage.boxes = (this.verdict.defects ?? []).map((defect) => defect.bbox);
    this.stage.onlook = () => this.read();
    this.stage.onsharp = (sharp) => this.measure(sharp);
    this.setOpacity(this.opacity);
    this.select(LAYERS.find((layer) => this.can(layer)) ?? "original");
    if (this.can("map")) this.stage.map = this.pyramid("map");
    this.keys = this.bindings(back);
    this.onReview = (event) => { if (event.detail?.resultId === this.verdict.resultId) this.reviewed(); };
    news.addEventListener("review", this.onReview);
    this.stage.canvas.focus({ preventScroll: true });
  }

  /** Somebody said something of this verdict, perhaps elsewhere. */
  async reviewed() {
    const found = await detail(this.verdict.resultId).catch(() => null);
    if (found) this.review.update(found.reviews ?? []);
  }

  can(layer) {
    const about = this.found.pictures?.[layer];
    return Boolean(about && !about.why);
  }

  pyramid(layer) {
    if (!this.pyramids.has(layer)) {
      const about = this.found.pictures[layer];
      const matrix = about.aligned === "plane" ? this.onFrame(about) : null;
      this.pyramids.set(layer, new Pyramid(this.verdict.resultId, layer, about, matrix, () => this.gaze.changed()));
    }
    return this.pyramids.get(layer);
  }

  onFrame() {
    return this.found.planeToFrame ?? IDENTITY;
  }

  build(main) {
    const head = h("div", { class: "bar" }, badge(this.verdict.resultEvaluation, spoken(this.verdict.resultEvaluation)),
      h("h2", {}, this.verdict.partId ?? this.verdict.image?.path ?? "–"),
      h("span", {}, `view ${this.verdict.view ?? "–"} · ${this.verdict.recipeId} · batch ${this.verdict.batchId ?? "–"} · `, moment(this.verdict.creationTime)),
      this.siblings());
    this.buttons = new Map(LAYERS.map((layer, at) => {
      const reason = this.found.pictures?.[layer] ? this.found.pictures[layer].why : "the daemon has no such picture";
      return [layer, h("button", { type: "button", disabled: !this.can(layer), title: reason ?? `key ${at + 1}`, "aria-pressed": "false",
        onclick: () => this.look(layer) }, `${at + 1} ${layer}`)];
    }));
    this.slider = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.opacity, "aria-label": "Opacity of the map over the picture",
      oninput: () => this.setOpacity(Number(this.slider.value)) });
    this.blinker = h("button", { type: "button", "aria-pressed": "false", disabled: !this.can("reconstruction"), onclick: () => this.blink() }, "Blink");
    this.splitter = h("button", { type: "button", "aria-pressed": "false", disabled: !this.can("reconstruction"), onclick: () => this.split() }, "Side by side");
    this.readout = h("output", { class: "readout", "aria-label": "Pixel under the pointer" });
    const tools = h("div", { class: "tools", role: "toolbar", "aria-label": "Picture" }, h("span", { class: "group" }, ...this.buttons.values()),
      h("label", { class: "opacity" }, "Overlay", this.slider), h("span", { class: "group" }, this.blinker, this.splitter),
      h("span", { class: "group" }, this.button("−", "Zoom out", () => this.gaze.zoom(this.stage, 1 / 1.5)), this.button("+", "Zoom in", () => this.gaze.zoom(this.stage, 1.5)),
        this.button("1:1", "One to one", () => this.one()), this.button("Whole", "Whole picture", () => this.gaze.whole())));
    this.stages = h("div", { class: "stages" }, this.stage.canvas);
    this.list = defects(this.verdict, (at) => this.goTo(at));
    this.problem = h("p", { class: "broken", role: "status", hidden: true });
    const absent = this.can("original") ? null
      : missing("The frame cannot be shown", { message: this.found.pictures?.original?.why ?? "the daemon offers no pictures of this verdict" });
    tools.hidden = this.stages.hidden = this.readout.hidden = !LAYERS.some((layer) => this.can(layer));
    main.replaceChildren(head, h("div", { class: "desk" }, h("div", { class: "board" }, tools, absent, this.problem, this.stages, this.readout),
      h("aside", {}, why(this.found), this.list, this.review.element)));
  }

  button(text, label, act) {
    return h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  }

  siblings() {
    const part = this.found.part;
    if (!part?.views?.length) return null;
    return h("nav", { class: "siblings", "aria-label": "Views of this part" },
      h("a", { href: `#/part/${[this.verdict.recipeId, this.verdict.batchId ?? "", this.verdict.partId ?? ""].map(encodeURIComponent).join("/")}` }, "all views"),
      part.views.map((one) => h("a", { href: `#/verdict/${encodeURIComponent(one.resultId)}`, class: one.resultEvaluation,
        "aria-current": one.resultId === this.verdict.resultId ? "page" : null, "aria-label": `View ${one.view}, ${spoken(one.resultEvaluation)}` }, one.view)),
      (part.missingViews ?? []).map((view) => h("span", { class: "gone", title: "This view did not come" }, `${view} missing`)));
  }

  bindings(back) {
    const layers = Object.fromEntries(LAYERS.map((layer, at) => [String(at + 1), () => this.can(layer) && this.look(layer)]));
    const step = (by) => () => this.setOpacity(Math.round(20 * Math.min(1, Math.max(0, this.opacity + by))) / 20);
    const pan = (dx, dy) => (event) => (event.target.matches("input") ? false : this.gaze.move(dx, dy));
    const more = 0.25;
    return {
      ...layers, Escape: back, o: () => this.setOpacity(this.opacity >= 1 ? 0 : Math.min(1, this.opacity + more)), O: step(-more),
      b: () => this.blink(), s: () => this.split(), n: () => this.goTo((this.stage.chosen + 1) % this.stage.boxes.length),
      "+": () => this.gaze.zoom(this.stage, 1.5), "=": () => this.gaze.zoom(this.stage, 1.5), "-": () => this.gaze.zoom(this.stage, 1 / 1.5),
      0: () => this.gaze.whole(), z: () => this.one(), c: () => this.review.confirm(), x: () => this.review.overrule(),
      j: () => this.sibling(1), k: () => this.sibling(-1),
      ArrowLeft: pan(MOVE_PX, 0), ArrowRight: pan(-MOVE_PX, 0), ArrowUp: pan(0, MOVE_PX), ArrowDown: pan(0, -MOVE_PX),
    };
  }

  sibling(step) {
    const views = this.found.part?.views ?? [];
    const at = views.findIndex((one) => one.resultId === this.verdict.resultId);
    const next = views[at + step];
    if (at >= 0 && next) location.hash = `#/verdict/${encodeURIComponent(next.resultId)}`;
  }

  /** A layer that a person chose: it stays. */
  look(layer) {
    if (this.timer) this.blink();
    this.select(layer);
  }

  select(layer) {
    if (!this.can(layer)) return;
    this.layer = layer;
    this.stage.base = this.pyramid(layer);
    for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", String(name === layer));
    this.gaze.changed();
  }

  setOpacity(value) {
    this.opacity = value;
    this.slider.value = value;
    localStorage.setItem(OPACITY, value);
    this.stage.opacity = value;
    if (this.beside) this.beside.opacity = value;
    this.gaze.changed();
  }

  one() {
    const place = this.stage.boxes[Math.max(0, this.stage.chosen)];
    const [x, y] = this.gaze.fit && place ? [place[0] + place[2] / 2, place[1] + place[3] / 2] : [this.gaze.x, this.gaze.y];
    this.gaze.at(1, x, y);
  }

  goTo(at) {
    const box = this.stage.boxes[at];
    if (!box) return;
    this.stage.chosen = at;
    const [x, y, w, hh] = box;
    const { width, height } = this.stage.canvas;
    this.gaze.at(Math.min(4, width / (DEFECT_MARGIN * w), height / (DEFECT_MARGIN * hh)), x + w / 2, y + hh / 2);
    for (const [row, button] of this.list.querySelectorAll("button").entries()) button.setAttribute("aria-pressed", String(row === at));
  }

  blink() {
    if (!this.can("reconstruction")) return;
    const on = !this.timer;
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.select(this.layer === "original" ? "reconstruction" : "original"), BLINK_MS) : null;
    this.blinker.setAttribute("aria-pressed", String(on));
  }

  split() {
    if (!this.can("reconstruction")) return;
    if (this.beside) {
      this.beside.canvas.remove();
      this.beside.close();
      this.beside = null;
    } else {
      this.beside = new Stage(this.gaze, "Reconstruction, beside the original");
      this.beside.base = this.pyramid("reconstruction");
      this.beside.opacity = 0;
      this.beside.boxes = this.stage.boxes;
      this.select("original");
      this.stages.append(this.beside.canvas);
    }
    this.splitter.setAttribute("aria-pressed", String(Boolean(this.beside)));
  }

  read() {
    const scale = `${Math.round(100 * this.gaze.scale)} %`;
    const at = this.stage.pointer;
    const inside = at && at[0] >= 0 && at[1] >= 0 && at[0] < this.gaze.width && at[1] < this.gaze.height;
    const value = inside && this.layer === "original" ? this.stage.base?.value(at[0], at[1]) : null;
    this.readout.textContent = inside ? `x ${Math.floor(at[0])}  y ${Math.floor(at[1])}${value == null ? "" : `  grey ${value}`}  ·  ${scale}` : scale;
  }

  /** When the first picture and when the sharp one was there, for whoever measures. */
  measure(sharp) {
    const canvas = this.stage.canvas;
    const failed = [this.stage.base, this.stage.map].map((one) => one?.failed).find(Boolean) ?? "";
    if (this.problem.textContent !== failed) this.problem.textContent = failed; // a screen reader hears changes only
    this.problem.hidden = !failed;
    if (this.stage.base?.preview) canvas.dataset.first ??= Math.round(performance.now() - this.began);
    canvas.dataset.layer = this.layer;
    canvas.dataset.sharp = String(Boolean(sharp && this.stage.base?.preview));
  }

  close() {
    news.removeEventListener("review", this.onReview);
    clearInterval(this.timer);
    this.stage.close();
    this.beside?.close();
  }
}
