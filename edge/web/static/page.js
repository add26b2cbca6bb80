// The page: routes, keys, colours, and whether the daemon answers. Each view is a module.
import { ask, listen, news } from "./api.js";
import { byId, h } from "./dom.js";
import { showCharts } from "./charts.js";
import { showHealth } from "./health.js";
import { showLive } from "./live.js";
import { showPart } from "./part.js";
import { showReplays } from "./replays.js";
import { showThresholds } from "./thresholds.js";
import { showVerdict } from "./verdict.js";

const VIEWS = {
  "": ["Live", showLive],
  charts: ["Charts", showCharts],
  thresholds: ["Thresholds", showThresholds],
  replays: ["Replays", showReplays],
  health: ["Health", showHealth],
  part: [null, showPart],
  verdict: [null, showVerdict],
};
const KEYS = [
  ["j / k, ↓ / ↑", "next, previous"], ["Enter", "open"], ["Esc", "back"], ["f", "filters"],
  ["1 2 3 4", "original, preprocessed, reconstruction, map"], ["o, Shift o", "more, less of the overlay"],
  ["b", "blink original and reconstruction"], ["s", "original and reconstruction side by side"],
  ["+ / −, 0, z", "zoom, whole picture, one to one"], ["arrows in the picture", "move"],
  ["n", "next defect"], ["c", "confirm"], ["x", "overrule"], ["g then l c t r h", "go to a view"], ["?", "these keys"],
];
const GO = { l: "#/", c: "#/charts", t: "#/thresholds", r: "#/replays", h: "#/health" };
const THEMES = { system: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

let view = null; // { keys: { key: f }, close() } of the one that is shown
let cameFrom = "#/";
let going = false;

/** "#/part/demo/B1/P7" → ["part", "demo", "B1", "P7"]; what follows a "?" is the view's own. */
const route = () => location.hash.replace(/^#\/?/, "").split("?")[0].split("/").map(unescaped);

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  const [name, ...rest] = route();
  view?.close?.();
  const main = byId("main");
  main.replaceChildren();
  main.className = `on-${name || "live"}`;
  const [title, open] = VIEWS[name] ?? VIEWS[""];
  for (const link of byId("nav").children) {
    if (link.dataset.name === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title ?? rest.at(-1) ?? ""} · edge ${byId("station").textContent}`;
  const back = name === "verdict" ? cameFrom : "#/";
  view = open(main, rest, () => { location.hash = back; });
  if (name !== "verdict") cameFrom = location.hash || "#/";
  if (document.activeElement === document.body || !document.activeElement) main.focus({ preventScroll: true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select");
  if (byId("keys").open || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && !writing) return void (view?.keys?.Escape ?? (() => { location.hash = "#/"; }))();
  if (writing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "?") return void byId("keys").showModal();
  if (going && GO[event.key]) {
    going = false;
    location.hash = GO[event.key];
    return;
  }
  going = event.key === "g";
  const act = view?.keys?.[event.key];
  if (act && act(event) !== false) event.preventDefault();
}

function paint(name) {
  const known = name in THEMES ? name : "system";
  if (known === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = known;
  const [sign, said] = THEMES[known];
  byId("theme").textContent = sign;
  byId("theme").setAttribute("aria-label", `Colours: ${said}`);
  byId("theme").dataset.name = known;
  window.dispatchEvent(new Event("repaint"));
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(byId("theme").dataset.name) + 1) % names.length];
  localStorage.setItem("edge.theme", next);
  paint(next);
}

async function refreshReady() {
  const link = byId("ready");
  try {
    const [ready, status] = await Promise.all([
      ask("readyz", {}, { evenIf: [503] }), ask("api/v1/status", {}, { evenIf: [503] })]);
    const faults = Object.keys(ready.reasons ?? {}).length;
    say(link, ready.ready ? "ready" : `not ready: ${faults || ""}`, ready.ready ? "ready" : "failing");
    byId("station").textContent = status.station ?? "";
  } catch {
    say(link, "no answer", "failing");
  }
}

function say(link, text, look) {
  if (link.textContent !== text) link.textContent = text; // a screen reader hears changes only
  link.className = `badge ${look}`;
}

function start() {
  byId("nav").append(...Object.entries(VIEWS).filter(([, [title]]) => title)
    .map(([name, [title]]) => h("a", { href: `#/${name}`, "data-name": name }, title)));
  document.querySelector(".keys").append(...KEYS.flatMap(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)]));
  paint(localStorage.getItem("edge.theme") ?? "system");
  byId("theme").addEventListener("click", nextTheme);
  byId("help").addEventListener("click", () => byId("keys").showModal());
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  window.addEventListener("hashchange", show);
  window.addEventListener("keydown", onKey);
  news.addEventListener("offline", () => {
    byId("offline").hidden = false;
    byId("offline").textContent = "The daemon does not answer. What is shown may be old; this page goes on by itself when it is back.";
    say(byId("ready"), "no answer", "failing");
  });
  news.addEventListener("online", () => {
    byId("offline").hidden = true;
    byId("offline").textContent = "";
    refreshReady();
    if (byId("main").querySelector(".missing") || view?.incomplete) show(); // what could not be shown
  });
  news.addEventListener("status", refreshReady);
  refreshReady();
  show();
  listen();
}

start();
