// One part: all its views side by side, those that are missing too.
import { ask, detail, evidence, news, picture } from "./api.js";
import { coloured } from "./colour.js";
import { badge, h, missing, moment, plain, spoken } from "./dom.js";
import { meaning, remedy } from "./reasons.js";
import { IDENTITY, affine, isAffine, warped } from "./projection.js";

const CARD_PX = 640;
const SETTLE_MS = 250; // several verdicts at once are one look
const OPACITY = "edge.opacity";

export function showPart(main, [recipe, batch, part], back) {
  const shown = new Part(main, { recipe, batch, part }, back);
  shown.refresh();
  return shown;
}

class Part {
  constructor(main, names, back) {
    Object.assign(this, { main, names });
    this.selected = -1;
    this.opacity = Number(localStorage.getItem(OPACITY) ?? 0.5);
    this.head = h("div", { class: "bar" });
    this.grid = h("div", { class: "views" });
    this.slider = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.opacity, "aria-label": "Opacity of the maps", oninput: () => this.fade(Number(this.slider.value)) });
    this.reasons = h("ul", { class: "reasons", "aria-label": "Why" });
    main.append(this.head, this.reasons, h("label", { class: "opacity" }, "Overlay", this.slider), this.grid);
    this.keys = { Escape: back, j: () => this.move(1), k: () => this.move(-1), ArrowDown: () => this.move(1), ArrowRight: () => this.move(1),
      ArrowUp: () => this.move(-1), ArrowLeft: () => this.move(-1), o: () => this.fade(this.opacity >= 1 ? 0 : this.opacity + 0.25) };
    this.again = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), SETTLE_MS);
    };
    this.onVerdict = (event) => { if (event.detail?.partId === this.names.part) this.again(); };
    this.onStatus = (event) => { if (event.detail?.polled || event.detail?.opened) this.again(); };
    news.addEventListener("review", this.again);
    news.addEventListener("verdict", this.onVerdict);
    news.addEventListener("status", this.onStatus);
  }

  close() {
    clearTimeout(this.timer);
    news.removeEventListener("review", this.again);
    news.removeEventListener("verdict", this.onVerdict);
    news.removeEventListener("status", this.onStatus);
    this.closed = true;
  }

  async refresh() {
    try {
      const { recipe, batch, part } = this.names;
      const all = await ask("api/v1/verdicts", { recipe, batch, part, limit: 200 });
      if (this.closed) return;
      this.draw(all.filter((one) => one.partId === part && one.recipeId === recipe && (one.batchId ?? "") === batch));
    } catch (error) {
      if (this.looks) return; // shown already; the page says that the daemon does not answer
      this.grid.replaceChildren(missing("This part cannot be shown", error));
    }
  }

  draw(verdicts) {
    const looks = JSON.stringify(verdicts.map((one) => [one.resultId, one.review?.reviewId]));
    if (looks === this.looks) return; // pictures are not loaded again
    this.looks = looks;
    const whole = verdicts.find((one) => one.resultType === "part");
    const views = new Map();
    for (const one of verdicts) if (one.resultType === "frame" && !views.has(one.view)) views.set(one.view, one); // newest first
    const absent = (whole?.missingViews ?? []).filter((view) => !views.has(view));
    const names = [...views.keys(), ...absent].sort((a, b) => String(a).localeCompare(String(b), undefined, { numeric: true }));
    this.head.replaceChildren(...[whole ? badge(whole.resultEvaluation, spoken(whole.resultEvaluation)) : badge("unknown", "not complete"),
      h("h2", {}, this.names.part || "–"), h("span", {}, `${this.names.recipe} · batch ${this.names.batch || "–"} · ${views.size} views`, whole ? " · " : "",
        whole ? moment(whole.creationTime) : ""),
      whole ? reviewed(whole) : null].filter(Boolean));
    this.reasons.replaceChildren(...(whole?.reasons ?? []).map((reason) => h("li", {}, h("strong", {}, meaning(reason)), remedy(reason) ? ` ${remedy(reason)}` : "")));
    if (!names.length) return this.grid.replaceChildren(missing("This part cannot be shown", { message: "no verdict of it is stored" }));
    this.grid.replaceChildren(...names.map((name) => (views.has(name) ? this.card(views.get(name)) : gone(name))));
  }

  card(verdict) {
    const canvas = h("canvas", { role: "img", "aria-label": `View ${verdict.view}, ${spoken(verdict.resultEvaluation)}`, width: 4, height: 3 });
    const link = h("a", { class: `view ${verdict.resultEvaluation}`, href: `#/verdict/${encodeURIComponent(verdict.resultId)}` }, canvas,
      h("span", { class: "caption" }, h("strong", {}, `view ${verdict.view ?? "–"}`), badge(verdict.resultEvaluation, spoken(verdict.resultEvaluation)),
        h("span", { class: "number" }, verdict.score == null ? (verdict.reasons ?? []).map(plain).join(", ") : verdict.score.toFixed(2)), reviewed(verdict)));
    paint(canvas, verdict, this.opacity).catch((error) => canvas.replaceWith(instead(verdict, error)));
    return link;
  }

  fade(value) {
    this.opacity = Math.min(1, value);
    this.slider.value = this.opacity;
    localStorage.setItem(OPACITY, this.opacity);
    for (const canvas of this.grid.querySelectorAll("canvas")) canvas.redraw?.(this.opacity);
  }

  move(step) {
    const links = [...this.grid.querySelectorAll("a")];
    if (!links.length) return;
    this.selected = Math.min(links.length - 1, Math.max(0, this.selected + step));
    links[this.selected].focus();
  }
}

const reviewed = ({ review }) => (review ? h("span", { class: "reviewed", title: `${review.reviewer}: ${review.reason}` }, review.agrees ? "✓ confirmed" : `✗ ${spoken(review.evaluation)}`) : null);

/** What was kept of a frame that cannot be read any more. */
function instead(verdict, error) {
  const none = () => h("span", { class: "nopicture" }, `no picture: ${error.message}`);
  const kept = evidence(verdict);
  if (!kept) return none();
  const image = h("img", { src: kept, alt: `View ${verdict.view}, ${spoken(verdict.resultEvaluation)}; the frame itself is gone`, title: error.message });
  image.addEventListener("error", () => image.replaceWith(none()), { once: true });
  return image;
}

const gone = (view) => h("div", { class: "view gone", role: "img", "aria-label": `View ${view} is missing` }, h("span", {}, "did not come"),
  h("span", { class: "caption" }, h("strong", {}, `view ${view}`), badge("NotDecidable", "missing")));

async function load(id, layer) {
  const image = new Image();
  image.src = picture(id, layer, CARD_PX);
  await image.decode();
  return image;
}

async function paint(canvas, verdict, opacity) {
  const about = await detail(verdict.resultId);
  const original = about.pictures?.original;
  if (!original || original.why) throw new Error(original?.why ?? "the daemon offers none");
  const image = await load(verdict.resultId, "original");
  Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
  const scale = image.naturalWidth / original.width;
  const map = about.pictures.map && !about.pictures.map.why ? await load(verdict.resultId, "map").then((grey) => coloured(grey, true), () => null) : null;
  const matrix = about.planeToFrame ?? IDENTITY;
  const bent = map && !isAffine(matrix) ? warped(map, about.pictures.map, matrix, original) : null;
  canvas.redraw = (value) => {
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalAlpha = 1;
    pen.drawImage(image, 0, 0);
    pen.globalAlpha = value;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    if (bent) pen.drawImage(bent, 0, 0, original.width, original.height);
    else if (map) {
      if (about.pictures.map.aligned === "plane") pen.transform(...affine(matrix));
      pen.drawImage(map, 0, 0, about.pictures.map.width, about.pictures.map.height);
    }
    pen.globalAlpha = 1;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.strokeStyle = "#ff5a4f";
    pen.lineWidth = 3 / scale;
    for (const { bbox: [x, y, w, hh] } of verdict.defects ?? []) pen.strokeRect(x, y, w, hh);
  };
  canvas.redraw(opacity);
}
