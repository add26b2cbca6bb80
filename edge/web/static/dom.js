// Elements and texts. Names come from file names and are hostile: they are only ever set as text.

const SVG = () => document.getElementById("symbols").namespaceURI;

/** `h("p", { class: "faint", onclick: f }, "text", child)`: properties that are functions are listeners. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  decorate(made, properties);
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

export function s(tag, properties = {}, ...children) {
  const made = document.createElementNS(SVG(), tag);
  decorate(made, properties);
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

function decorate(made, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value == null || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
}

export const byId = (id) => document.getElementById(id);

export const badge = (evaluation, text = evaluation) => h("span", { class: `badge ${evaluation}` }, text);

const WORDS = { OK: "OK", NotOK: "Not OK", NotDecidable: "Not decidable" };
export const spoken = (evaluation) => WORDS[evaluation] ?? evaluation ?? "–";

export const plain = (reason) => String(reason).replaceAll("_", " ");

/** A number for a person: three significant digits, no exponent where it can be helped. */
export function figure(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(digits - 1);
  return Number(value.toPrecision(digits)).toLocaleString(undefined, { maximumFractionDigits: 8 });
}

export const percent = (share, digits = 1) => (share == null ? "–" : `${(100 * share).toFixed(digits)} %`);
export const count = (value) => (value ?? 0).toLocaleString();
export const seconds = (value) =>
  (value == null ? "–" : value < 1 ? `${figure(value * 1000)} ms` : `${figure(value)} s`);

/** Today: the time; earlier: the day too. The exact time is in the element. */
export function moment(iso) {
  const then = new Date(iso);
  const today = then.toDateString() === new Date().toDateString();
  const text = today ? then.toLocaleTimeString() : then.toLocaleString();
  return h("time", { datetime: iso, title: then.toLocaleString() }, text);
}

/** What a view shows where it cannot show what it should. */
export function missing(title, error) {
  return h("div", { class: "missing", role: "status" }, h("strong", {}, title), h("p", {}, error?.message ?? String(error)));
}

export function table(caption, columns, rows) {
  return h("table", {}, h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))));
}

export function choose(label, options, chosen, onchange) {
  const select = h("select", { onchange: () => onchange(select.value) },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return h("label", {}, label, select);
}
