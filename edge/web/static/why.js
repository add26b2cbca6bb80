// Why a verdict is what it is: numbers against their limits, reasons in plain words, what judged it and how long it took.
import { count, figure, h, percent, plain, seconds } from "./dom.js";
import { meaning, remedy } from "./reasons.js";

const FULL = 2; // of the bar, in thresholds

export function why({ verdict, limits }) {
  return h("section", { class: "panel", "aria-label": "Why" }, h("h2", {}, "Why"), score(verdict), reasons(verdict),
    facts("Statistics", Object.entries(verdict.statistics ?? {}).map(([name, value]) => [name, figure(value)])),
    limits ? facts("Threshold", [["raw", figure(limits.threshold)], ["of", plain(limits.basis ?? "–")], ["frames", limits.frames ?? "–"],
      ["false rejects promised", limits.falseRejectBound == null ? "none" : `at most ${percent(limits.falseRejectBound)}`]]) : null,
    classes(verdict), facts("Judged by", judged(verdict)),
    facts("Times", Object.entries(verdict.processingTimes ?? {}).map(([name, value]) => [plain(name.replace(/_s$/, "")), seconds(value)])),
    facts("Frame", image(verdict)));
}

function score(verdict) {
  if (verdict.score == null) return h("p", {}, "It has no score: nothing was measured, so it cannot be OK.");
  const over = verdict.score > 1;
  const bar = h("meter", { class: "score", min: 0, max: FULL, high: 1, optimum: 0, value: Math.min(FULL, verdict.score), "aria-label": `Score ${verdict.score.toFixed(2)} where the threshold is 1` });
  return h("div", { class: "scorebar" }, h("p", { class: "big" }, verdict.score.toFixed(2), h("small", {}, over ? " above the threshold, 1.00" : " of the threshold, 1.00")),
    bar, h("p", { class: "faint" }, `raw ${figure(verdict.scoreRaw)} against ${figure(verdict.thresholdRaw)}`));
}

function reasons(verdict) {
  const all = verdict.reasons ?? [];
  if (!all.length) return h("p", {}, "It looks like the good frames of its calibration.");
  return h("ul", { class: "reasons" }, all.map((reason) => h("li", {}, h("strong", {}, meaning(reason)), remedy(reason) ? h("span", {}, ` ${remedy(reason)}`) : null)));
}

function facts(title, rows) {
  if (!rows.length) return null;
  return h("details", { open: title === "Threshold" }, h("summary", {}, title),
    h("dl", { class: "facts" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

function judged({ model, isHistorical, isSimulated }) {
  const rows = [];
  if (model) {
    rows.push(["engine", model.bundle ?? "–"], ["its digest", digest(model.sha256)], ["calibration", digest(model.calibration_sha256)],
      ["runtime", `${model.runtime ?? "–"} ${model.precision ?? ""}`]);
  }
  if (isHistorical) rows.push(["historical", "yes"]);
  if (isSimulated) rows.push(["simulated", "yes"]);
  return rows;
}

const digest = (text) => h("code", { title: text ?? "" }, text ? text.slice(0, 12) : "–");

function image({ image: one }) {
  if (!one) return [];
  return [["file", one.path], ["size", `${one.width ?? "–"} × ${one.height ?? "–"}, ${one.bits ?? "–"} bits`], ["digest", digest(one.sha256)],
    ...(one.page == null ? [] : [["page", one.page]])];
}

function classes({ classAreas }) {
  return classAreas ? facts("Classes", Object.entries(classAreas).map(([name, area]) => [name, `${count(area)} px`])) : null;
}

export function defects(verdict, goTo) {
  const found = verdict.defects ?? [];
  return h("section", { class: "panel", "aria-label": "Defects" }, h("h2", {}, `Defects (${found.length})`),
    found.length ? h("ol", { class: "defects" }, found.map((defect, at) => h("li", {}, h("button", { type: "button", "aria-pressed": "false", onclick: () => goTo(at) },
      h("span", {}, plain(defect.class)), h("span", {}, `score ${figure(defect.score)}`), h("span", {}, `${count(defect.area_px)} px`),
      h("span", { class: "faint" }, `x ${defect.bbox[0]}, y ${defect.bbox[1]}`))))) : h("p", { class: "faint" }, "No place is marked."));
}
