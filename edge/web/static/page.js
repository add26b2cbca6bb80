// Refreshes the operator page from the API. Names come from file names and are only ever set as text.
"use strict";

const REFRESH_MS = 2000;
const CHARTS_REFRESH_MS = 10000;
const ROWS = 50;
const shown = new Map(); // resultId → its row, so that pictures are not loaded again
const drawn = new Map(); // "recipe\nview" → { figure, updatedAt } of its control chart

const byId = (id) => document.getElementById(id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok && answer.status !== 503) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function showReady(word, className, reasons) {
  const badge = byId("ready");
  if (badge.textContent !== word) badge.textContent = word; // a screen reader hears changes only
  badge.className = `badge ${className}`;
  const list = byId("reasons");
  list.replaceChildren(...Object.entries(reasons).map(([name, why]) => element("li", `${name}: ${why}`)));
  list.hidden = list.childElementCount === 0;
}

function card(title, value, detail) {
  const made = element("div");
  made.append(element("dt", title), element("dd", value));
  if (detail) made.append(element("dd", detail, "detail"));
  return made;
}

const number = (value) => (value ?? 0).toLocaleString();

function counted(title, counts) {
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const parts = ["OK", "NotOK", "NotDecidable"].filter((name) => counts[name]);
  return card(title, number(total), parts.map((name) => `${number(counts[name])} ${name}`).join(" · "));
}

function showFigures(status) {
  byId("station").textContent = status.station ?? "";
  document.title = `edge ${status.station ?? ""}`;
  const cards = [counted("frames", status.verdicts.frame), counted("parts", status.verdicts.part)];
  for (const [name, source] of Object.entries(status.backlog)) {
    cards.push(card(`source ${name}`, source.unavailable ? "gone" : number(source.waiting),
      source.unavailable ?? "frames waiting"));
  }
  for (const [name, sink] of Object.entries(status.outbox)) {
    cards.push(card(`sink ${name}`, sink.connected ? number(sink.depth) : "not connected",
      sink.connected && !sink.lastError ? "verdicts to deliver"
        : `${number(sink.depth)} to deliver; ${sink.lastError ?? ""}`));
  }
  for (const [name, recipe] of Object.entries(status.recipes)) {
    cards.push(card(`recipe ${name}`, recipe.bundle,
      `${recipe.runtime} ${recipe.precision} · bundle ${recipe.bundleSha256.slice(0, 12)}`));
  }
  const minutes = Math.floor((Date.now() - Date.parse(status.startedAt)) / 60000);
  cards.push(card("up", `${number(Math.max(0, minutes))} min`, `edge ${status.version}`));
  if (status.lastReload) {
    cards.push(card("last reload", status.lastReload.ok ? "taken over" : "refused", status.lastReload.error ?? ""));
  }
  byId("figures").replaceChildren(...cards);
}

function picture(verdict) {
  const cell = element("td");
  if (!verdict.evidence) return cell;
  const path = verdict.evidence.split("/").map(encodeURIComponent).join("/");
  const link = element("a");
  link.href = /\.(png|jpe?g|webp)$/i.test(path) ? `evidence/${path}` : `evidence/${path}/overlay.jpg`;
  link.target = "_blank";
  link.rel = "noopener";
  const image = element("img");
  image.src = link.href;
  image.loading = "lazy";
  image.alt = `Overlay of part ${verdict.partId ?? "–"}, view ${verdict.view ?? "–"}`;
  image.onerror = () => link.remove();
  link.append(image);
  cell.append(link);
  return cell;
}

function row(verdict) {
  const made = element("tr");
  const evaluation = element("td");
  evaluation.append(element("span", verdict.resultEvaluation, `badge ${verdict.resultEvaluation}`));
  const time = element("time", new Date(verdict.creationTime).toLocaleTimeString());
  time.dateTime = verdict.creationTime;
  const when = element("td");
  when.append(time);
  const view = verdict.resultType === "part" ? "whole part" : (verdict.view ?? "–");
  made.append(
    evaluation,
    when,
    element("td", verdict.partId ?? verdict.image?.path ?? "–"),
    element("td", view),
    element("td", verdict.recipeId),
    element("td", verdict.score == null ? "–" : verdict.score.toFixed(2), "number"),
    element("td", verdict.reasons.join(", ").replaceAll("_", " "), "why"),
    picture(verdict),
  );
  return made;
}

function showVerdicts(verdicts) {
  const rows = verdicts.map((verdict) => {
    if (!shown.has(verdict.resultId)) shown.set(verdict.resultId, row(verdict));
    return shown.get(verdict.resultId);
  });
  const current = new Set(verdicts.map((verdict) => verdict.resultId));
  for (const id of shown.keys()) if (!current.has(id)) shown.delete(id);
  const body = byId("verdicts").tBodies[0];
  const same = rows.length === body.rows.length && rows.every((made, index) => made === body.rows[index]);
  if (!same) body.replaceChildren(...rows); // replacing would take the keyboard's focus away
  byId("empty").hidden = rows.length > 0;
}

async function drawing(chart) {
  const query = new URLSearchParams({ recipe: chart.recipe, view: chart.view });
  const answer = await fetch(`api/v1/spc.svg?${query}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`api/v1/spc.svg: ${answer.status}`);
  const parsed = new DOMParser().parseFromString(await answer.text(), "image/svg+xml");
  return document.importNode(parsed.documentElement, true);
}

async function figure(chart) {
  const latest = chart.points.at(-1);
  const state = chart.inControl === null ? "no limits" : chart.inControl ? "in control" : "out of control";
  const look = chart.inControl === null ? "unknown" : chart.inControl ? "OK" : "NotOK";
  const caption = element("figcaption");
  const name = chart.view ? `${chart.recipe} · view ${chart.view}` : chart.recipe;
  const detail = `nQI ${latest.nqi.toFixed(3)} · batch ${latest.batch || latest.day}, ${number(latest.frames)} frames`;
  caption.append(element("strong", name), element("span", detail, "faint"), element("span", state, `badge ${look}`));
  const made = element("figure");
  made.append(caption, await drawing(chart));
  return made;
}

async function showCharts() {
  try {
    const { charts } = await get("api/v1/spc?last=1");
    const current = new Map();
    for (const chart of charts) {
      const key = `${chart.recipe}\n${chart.view}`;
      const before = drawn.get(key);
      const same = before && before.updatedAt === chart.updatedAt && before.calibration === chart.calibrationSha256;
      current.set(key, same ? before
        : { figure: await figure(chart), updatedAt: chart.updatedAt, calibration: chart.calibrationSha256 });
    }
    drawn.clear();
    for (const [key, entry] of current) drawn.set(key, entry);
    const figures = [...current.values()].map((entry) => entry.figure);
    const list = byId("charts");
    const same = figures.length === list.children.length && figures.every((made, at) => made === list.children[at]);
    if (!same) list.replaceChildren(...figures);
    byId("quality").hidden = figures.length === 0;
  } catch {
    // the badge above says that the daemon does not answer; the charts stay as they were
  }
  setTimeout(showCharts, CHARTS_REFRESH_MS);
}

async function refresh() {
  try {
    const [ready, status, verdicts] = await Promise.all([
      get("readyz"), get("api/v1/status"), get(`api/v1/verdicts?limit=${ROWS}`),
    ]);
    showReady(ready.ready ? "ready" : "not ready", ready.ready ? "ready" : "failing", ready.reasons);
    showFigures(status);
    showVerdicts(verdicts);
  } catch (error) {
    showReady("no answer", "failing", { daemon: String(error.message) });
  }
  setTimeout(refresh, REFRESH_MS);
}

refresh();
showCharts();
