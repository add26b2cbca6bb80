// Replays: frames judged again by a candidate, and what would change.
import { ask, news, post } from "./api.js";
import { badge, count, h, missing, moment } from "./dom.js";

const LOOKS = { done: "OK", failed: "NotOK", running: "unknown" };
const MOST = 1000;

export function showReplays(main, _, back) {
  const body = h("tbody");
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const refresh = () => list(body);
  const shown = { keys: { Escape: back }, close: () => news.removeEventListener("status", refresh) };
  main.append(h("div", { class: "bar" }, h("h2", {}, "Replays")),
    h("p", { class: "faint" }, "Stored frames are judged again, by a new engine or calibration; the report shows each verdict that flips, with pictures. Verdicts that were given stay as they are."),
    form(problem, refresh, shown), problem,
    h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Replays, newest first"),
      h("thead", {}, h("tr", {}, ["State", "Started", "Recipe", "Frames", "Flips", "Report"].map((name) => h("th", { scope: "col" }, name)))), body)));
  news.addEventListener("status", refresh);
  refresh();
  return shown;
}

function form(problem, refresh, shown) {
  const recipe = h("select", { name: "recipe", required: true });
  ask("api/v1/status", {}, { evenIf: [503] }).then(({ recipes }) => recipe.append(...Object.keys(recipes ?? {}).map((name) => h("option", { value: name }, name))), () => { shown.incomplete = true; });
  const field = (name, label, properties = {}) => h("label", {}, label, h("input", { name, ...properties }));
  return h("form", { class: "fields start", onsubmit: async (event) => {
    event.preventDefault();
    const wanted = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value !== ""));
    for (const name of ["since", "until"]) if (wanted[name]) wanted[name] = new Date(wanted[name]).toISOString();
    if (wanted.limit) wanted.limit = Number(wanted.limit);
    problem.hidden = true;
    try {
      await post("api/v1/replays", wanted);
      refresh();
    } catch (error) {
      problem.hidden = false;
      problem.textContent = `Not started: ${error.message}`;
    }
  } }, h("label", {}, "Recipe", recipe), field("since", "From", { type: "datetime-local" }), field("until", "Until", { type: "datetime-local" }),
  field("limit", "At most", { type: "number", min: 1, value: MOST }), field("engine", "Engine", { placeholder: "as it is" }),
  field("calibration", "Calibration", { placeholder: "as it is" }), h("button", { class: "primary" }, "Start"));
}

async function list(body) {
  try {
    const { replays } = await ask("api/v1/replays");
    const rows = replays.map((one) => h("tr", {}, h("td", {}, badge(LOOKS[one.state] ?? "unknown", one.state)), h("td", {}, moment(one.createdAt)), h("td", {}, one.recipe),
      h("td", { class: "number" }, one.frames == null ? "–" : count(one.frames)), h("td", { class: "number" }, one.flips == null ? "–" : count(one.flips)),
      h("td", {}, one.state === "done" ? h("a", { href: `replays/${encodeURIComponent(one.id)}/report.html`, target: "_blank", rel: "noopener" }, "open") : (one.error ?? ""))));
    body.replaceChildren(...(rows.length ? rows : [h("tr", {}, h("td", { colspan: 6, class: "faint" }, "No replay yet. ", h("code", {}, "edge replay"), " starts one too."))]));
  } catch (error) {
    if (error.status !== 0) body.replaceChildren(h("tr", {}, h("td", { colspan: 6 }, missing("Replays cannot be shown", error))));
  }
}
