// Health: each check, what is wrong, and what to do about it.
import { ask, news } from "./api.js";
import { badge, h, missing, plain } from "./dom.js";
import { cards } from "./live.js";

const LOOKS = { ok: ["OK", "fine"], warning: ["NotDecidable", "look at it"], fault: ["NotOK", "fault"] };
const ORDER = ["fault", "warning", "ok"];

export function showHealth(main, _, back) {
  const list = h("ul", { class: "checks" });
  const figures = h("dl", { class: "figures", "aria-label": "Figures" });
  main.append(h("div", { class: "bar" }, h("h2", {}, "Health")), list, h("h3", {}, "Figures"), figures,
    h("p", { class: "note" }, "More: ", h("code", {}, "edge doctor"), " looks at the machine and the installation; ", h("code", {}, "edge status"), " says this in a terminal."));
  const refresh = () => {
    checks(list);
    ask("api/v1/status", {}, { evenIf: [503] }).then((status) => figures.replaceChildren(...cards(status)), () => {});
  };
  news.addEventListener("status", refresh);
  refresh();
  return { keys: { Escape: back }, close: () => news.removeEventListener("status", refresh) };
}

async function checks(list) {
  let found;
  try {
    found = (await ask("api/v1/health", {}, { evenIf: [503] })).checks;
    if (!found) throw new Error("this daemon does not say more");
  } catch (error) {
    if (error.status === 0) return;
    found = await fromReady(error, list);
  }
  if (!found) return;
  const sorted = [...found].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
  list.replaceChildren(...sorted.map((check) => h("li", { class: check.state }, badge(...(LOOKS[check.state] ?? ["unknown", check.state])),
    h("div", {}, h("strong", {}, plain(check.name).replaceAll(":", " · ")), " ", check.what, check.fix ? h("p", { class: "fix" }, check.fix) : null))));
}

/** What is known without the endpoint. */
async function fromReady(error, list) {
  try {
    const { ready, reasons } = await ask("readyz", {}, { evenIf: [503] });
    return ready ? [{ name: "ready", state: "ok", what: `all that /readyz looks at is well (details: ${error.message})` }]
      : Object.entries(reasons ?? {}).map(([name, what]) => ({ name, state: "fault", what, fix: "edge doctor says more" }));
  } catch (second) {
    list.replaceChildren(missing("Health cannot be shown", second));
    return null;
  }
}
