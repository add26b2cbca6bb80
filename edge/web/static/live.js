// Live: the stream of verdicts, filters, and the way into the past.
import { ask, evidence, news, picture } from "./api.js";
import { badge, byId, choose, count, h, missing, moment, plain, spoken } from "./dom.js";

const PAGE = 50;
const FILTERS = ["type", "recipe", "view", "batch", "evaluation", "reason", "reviewed", "since", "until", "q"];
const SETTLE_MS = 250; // several verdicts at once are one look
const kept = { filters: {}, selected: null }; // while one looks at a part and comes back

export const linkTo = (verdict) => (verdict.resultType === "part"
  ? `#/part/${[verdict.recipeId, verdict.batchId ?? "", verdict.partId ?? ""].map(encodeURIComponent).join("/")}`
  : `#/verdict/${encodeURIComponent(verdict.resultId)}`);

export function showLive(main) {
  const asked = location.hash.split("?")[1];
  if (asked) kept.filters = Object.fromEntries([...new URLSearchParams(asked)].filter(([name, value]) => FILTERS.includes(name) && value));
  const live = new Live(main);
  live.start();
  return live;
}

class Live {
  constructor(main) {
    this.rows = new Map(); // resultId → row: pictures are not loaded again, focus is kept
    this.verdicts = [];
    this.fresh = 0;
    this.asked = new Set();
    this.paused = false;
    this.timer = null;
    this.build(main);
    this.keys = {
      j: () => this.move(1), ArrowDown: () => this.move(1), k: () => this.move(-1), ArrowUp: () => this.move(-1),
      Enter: (event) => (event.target.closest("a, button") ? false : this.open()),
      f: () => { this.form.open = true; this.form.querySelector("select, input").focus(); },
      Escape: () => this.resume(), " ": () => (document.activeElement === document.body ? this.toggle() : false),
    };
  }

  build(main) {
    this.latest = h("section", { class: "latest", "aria-label": "Latest verdict" });
    this.figures = h("dl", { class: "figures", "aria-label": "Figures" });
    this.form = h("details", { class: "filters", open: Object.keys(kept.filters).length > 0 }, h("summary", {}, "Filters"));
    this.fields = h("div", { class: "fields" });
    this.form.append(this.fields);
    this.pause = h("button", { type: "button", "aria-pressed": "true", onclick: () => this.toggle() }, "● Live");
    this.note = h("span", { class: "faint" });
    this.list = h("tbody");
    this.older = h("button", { type: "button", onclick: () => this.past() }, "Older");
    this.problem = h("div");
    main.append(h("div", { class: "top" }, this.latest, this.figures),
      h("div", { class: "bar" }, h("h2", {}, "Verdicts"), this.pause, this.note, this.form), this.problem,
      h("div", { class: "scroll" }, h("table", { id: "verdicts" }, h("caption", { class: "unseen" }, "Verdicts, newest first"),
        h("thead", {}, h("tr", {}, ["Picture", "Evaluation", "Time", "Part", "View", "Recipe", "Score", "Why", "Review"]
          .map((name) => h("th", { scope: "col", class: name === "Score" ? "number" : null }, name)))), this.list)),
      h("p", { class: "more" }, this.older));
  }

  start() {
    this.look = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), SETTLE_MS);
    };
    this.onVerdict = (event) => {
      this.look();
      this.widen(event.detail);
      if (!this.paused) return;
      this.fresh += 1;
      this.note.textContent = `${count(this.fresh)} new since`;
    };
    news.addEventListener("verdict", this.onVerdict);
    news.addEventListener("review", this.look);
    this.onStatus = (event) => {
      if (event.detail?.polled || event.detail?.opened) this.look();
      this.status();
    };
    news.addEventListener("status", this.onStatus);
    this.address();
    this.filters();
    this.refresh();
    this.status();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    news.removeEventListener("verdict", this.onVerdict);
    news.removeEventListener("review", this.look);
    news.removeEventListener("status", this.onStatus);
  }

  async filters() {
    let facets = { recipes: [], views: {}, batches: [], reasons: [] };
    this.known = this.listless = null;
    try {
      facets = { ...facets, ...(await ask("api/v1/facets")) };
    } catch (error) {
      this.listless = h("p", { class: "faint" }, `No lists of recipes, views and batches: ${error.message}.`);
    }
    const views = [...new Set(Object.values(facets.views).flat())];
    this.known = { recipeId: new Set(facets.recipes), view: new Set(views), batchId: new Set(facets.batches) };
    this.fields.replaceChildren();
    const any = (names) => [["", "any"], ...names.map((name) => [name, name])];
    const pick = (name, label, options) => choose(label, options, kept.filters[name] ?? "", (value) => this.filter(name, value));
    const type = (name, label, kind) => h("label", {}, label, h("input", {
      type: kind, value: kept.filters[name] ?? "", step: kind === "datetime-local" ? 1 : null,
      onchange: (event) => this.filter(name, event.target.value) }));
    this.fields.append(
      ...(this.listless ? [this.listless] : []), pick("type", "Of", [["", "frames and parts"], ["frame", "frames"], ["part", "parts"]]),
      pick("recipe", "Recipe", any(facets.recipes)), pick("view", "View", any(views)), pick("batch", "Batch", any(facets.batches)),
      pick("evaluation", "Evaluation", [["", "any"], ["OK", "OK"], ["NotOK", "Not OK"], ["NotDecidable", "Not decidable"]]),
      pick("reason", "Reason", [["", "any"], ...facets.reasons.map((name) => [name, plain(name)])]),
      pick("reviewed", "Reviewed", [["", "any"], ["yes", "yes"], ["no", "no"], ["overruled", "overruled"]]),
      type("since", "From", "datetime-local"), type("until", "Until", "datetime-local"), type("q", "Part or file", "search"),
      h("button", { type: "button", onclick: () => this.clear() }, "Clear"));
  }

  /** A verdict of a batch, view or recipe that the lists do not have yet: they are asked for again. */
  widen(verdict) {
    if (!this.known || this.fields.contains(document.activeElement)) return;
    const fresh = Object.entries(this.known).filter(([name, all]) => verdict[name] && !all.has(verdict[name]) && !this.asked.has(verdict[name]));
    for (const [name] of fresh) this.asked.add(verdict[name]); // once each: the lists may be cut
    if (fresh.length) this.filters();
  }

  filter(name, value) {
    if (value) kept.filters[name] = value;
    else delete kept.filters[name];
    this.address();
    this.resume();
  }

  clear() {
    kept.filters = {};
    this.address();
    this.filters();
    this.resume();
  }

  query() {
    const query = { limit: PAGE, ...kept.filters };
    for (const name of ["since", "until"]) if (query[name]) query[name] = new Date(query[name]).toISOString();
    return query;
  }

  /** The filters in the address: a reload keeps them, and a colleague can be sent it. */
  address() {
    const text = new URLSearchParams(kept.filters).toString();
    history.replaceState(null, "", text ? `#/?${text}` : "#/");
  }

  /** The newest verdict of all, whatever the list shows. */
  async newest() {
    try {
      this.announce((await ask("api/v1/verdicts", { limit: 1 }))[0]);
    } catch {
      // the list says so
    }
  }

  async refresh() {
    if (this.closed) return;
    if (this.paused) return this.newest();
    const filtered = Object.keys(kept.filters).length > 0;
    if (filtered) this.newest();
    const asked = JSON.stringify(this.query());
    try {
      const verdicts = await ask("api/v1/verdicts", this.query());
      if (this.closed || this.paused || asked !== JSON.stringify(this.query())) return;
      this.problem.replaceChildren();
      if (!filtered) this.announce(verdicts[0]);
      this.verdicts = verdicts;
      this.draw();
      this.older.hidden = verdicts.length < PAGE;
    } catch (error) {
      if (error.status) this.problem.replaceChildren(missing("The verdicts cannot be shown", error));
    }
  }

  async past() {
    const last = this.verdicts.at(-1);
    if (!last) return;
    this.hold();
    try {
      const older = await ask("api/v1/verdicts", { ...this.query(), before: last.resultId });
      const known = new Set(this.verdicts.map((verdict) => verdict.resultId));
      const fresh = older.filter((verdict) => !known.has(verdict.resultId));
      this.verdicts.push(...fresh);
      this.draw();
      this.older.hidden = fresh.length === 0;
    } catch (error) {
      this.problem.replaceChildren(missing("Older verdicts cannot be shown", error));
    }
  }

  hold() {
    this.paused = true;
    this.pause.textContent = "❚❚ Paused";
    this.pause.setAttribute("aria-pressed", "false");
  }

  resume() {
    this.paused = false;
    this.fresh = 0;
    this.note.textContent = "";
    this.pause.textContent = "● Live";
    this.pause.setAttribute("aria-pressed", "true");
    kept.selected = null;
    this.refresh();
  }

  toggle() {
    if (this.paused) this.resume();
    else this.hold();
  }

  announce(verdict) {
    if (!verdict) return;
    const name = verdict.partId ?? verdict.image?.path ?? "–";
    const view = verdict.resultType === "part" ? "whole part" : `view ${verdict.view ?? "–"}`;
    const why = verdict.score == null ? (verdict.reasons ?? []).map(plain).join(", ") : `score ${verdict.score.toFixed(2)} of 1.00`;
    this.latest.className = `latest ${verdict.resultEvaluation}`;
    this.latest.replaceChildren(
      h("a", { href: linkTo(verdict) }, h("strong", { class: "verdict" }, spoken(verdict.resultEvaluation)),
        h("span", { class: "of" }, `${name} · ${view}`),
        h("span", { class: "of" }, why ? `${why} · ` : "", moment(verdict.creationTime))));
    const bad = verdict.resultEvaluation !== "OK";
    if (bad && this.said !== verdict.resultId) byId("said").textContent = `${spoken(verdict.resultEvaluation)}: ${name}, ${view}`;
    if (bad) this.said = verdict.resultId; // OK is not said aloud: that would be all day
  }

  draw() {
    const shown = this.verdicts.map((verdict) => {
      const before = this.rows.get(verdict.resultId);
      if (before && before.reviewed === verdict.review?.reviewId) return before.row;
      const row = this.row(verdict);
      this.rows.set(verdict.resultId, { row, reviewed: verdict.review?.reviewId });
      return row;
    });
    const same = shown.length === this.list.rows.length && shown.every((row, at) => row === this.list.rows[at]);
    if (!same) {
      const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
      this.list.replaceChildren(...shown);
      if (focused?.isConnected) focused.focus({ preventScroll: true });
    }
    const current = new Set(this.verdicts.map((verdict) => verdict.resultId));
    for (const id of this.rows.keys()) if (!current.has(id)) this.rows.delete(id);
    const nothing = Object.keys(kept.filters).length ? "Nothing matches the filters." : "No verdicts yet. They appear here as frames arrive.";
    if (!shown.length) this.list.replaceChildren(h("tr", {}, h("td", { colspan: 9, class: "faint" }, nothing)));
    this.mark();
  }

  row(verdict) {
    const name = verdict.partId ?? verdict.image?.path ?? "–";
    const review = verdict.review;
    return h("tr", { "data-id": verdict.resultId },
      h("td", {}, thumbnail(verdict)), h("td", {}, badge(verdict.resultEvaluation, spoken(verdict.resultEvaluation))),
      h("td", {}, moment(verdict.creationTime)), h("td", { class: "name" }, h("a", { href: linkTo(verdict) }, name)),
      h("td", {}, verdict.resultType === "part" ? "whole part" : (verdict.view ?? "–")), h("td", {}, verdict.recipeId),
      h("td", { class: "number" }, scored(verdict)), h("td", { class: "why" }, (verdict.reasons ?? []).map(plain).join(", ")),
      h("td", {}, review ? h("span", { title: `${review.reviewer}: ${review.reason}` },
        review.agrees ? "✓ confirmed" : `✗ ${spoken(review.evaluation)}`) : ""));
  }

  move(step) {
    if (!this.verdicts.length) return;
    const at = this.verdicts.findIndex((verdict) => verdict.resultId === kept.selected);
    const next = Math.min(this.verdicts.length - 1, Math.max(0, at < 0 ? 0 : at + step));
    kept.selected = this.verdicts[next].resultId;
    this.hold();
    this.mark();
    const row = this.list.rows[next];
    row?.querySelector("a[href^='#']")?.focus({ preventScroll: true });
    row?.scrollIntoView({ block: "nearest" });
  }

  mark() {
    for (const row of this.list.rows) row.classList.toggle("selected", row.dataset.id === kept.selected);
  }

  open() {
    const verdict = this.verdicts.find((one) => one.resultId === kept.selected);
    if (verdict) location.hash = linkTo(verdict);
  }

  async status() {
    try {
      const status = await ask("api/v1/status", {}, { evenIf: [503] });
      this.figures.replaceChildren(...cards(status));
    } catch (error) {
      if (error.status) this.figures.replaceChildren(missing("No figures", error));
    }
  }
}

function scored(verdict) {
  if (verdict.score == null) return "–";
  const bar = h("meter", { min: 0, max: 2, high: 1, optimum: 0, value: Math.min(2, verdict.score), "aria-hidden": "true" });
  return h("span", { class: "scored" }, bar, verdict.score.toFixed(2));
}

function thumbnail(verdict) {
  if (verdict.resultType === "part") return h("span", { class: "faint" }, `${verdict.views?.length ?? 0} views`);
  const stored = evidence(verdict);
  if (!stored && !verdict.image?.width) return h("span", { class: "faint" }, "no picture"); // could not be read
  const image = h("img", { src: stored ?? picture(verdict.resultId, "original", 160), loading: "lazy", decoding: "async",
    alt: `Part ${verdict.partId ?? "–"}, view ${verdict.view ?? "–"}` });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "faint" }, "no picture")), { once: true });
  return h("a", { href: linkTo(verdict), tabindex: -1 }, image);
}

function card(title, value, detail) {
  return h("div", {}, h("dt", {}, title), h("dd", {}, value), detail ? h("dd", { class: "detail" }, detail) : null);
}

function counted(title, counts = {}) {
  const total = Object.values(counts).reduce((sum, one) => sum + one, 0);
  const parts = ["OK", "NotOK", "NotDecidable"].filter((name) => counts[name]);
  return card(title, count(total), parts.map((name) => `${count(counts[name])} ${spoken(name)}`).join(" · "));
}

export function cards(status) {
  const made = [counted("frames", status.verdicts?.frame), counted("parts", status.verdicts?.part)];
  for (const [name, source] of Object.entries(status.backlog ?? {})) {
    made.push(card(`source ${name}`, source.unavailable ? "gone" : count(source.waiting), source.unavailable ?? "frames waiting"));
  }
  for (const [name, sink] of Object.entries(status.outbox ?? {})) {
    const fine = sink.connected && !sink.lastError;
    made.push(card(`sink ${name}`, sink.connected ? count(sink.depth) : "not connected",
      fine ? "verdicts to deliver" : `${count(sink.depth)} to deliver; ${sink.lastError ?? ""}`));
  }
  for (const [name, recipe] of Object.entries(status.recipes ?? {})) {
    made.push(card(`recipe ${name}`, recipe.bundle, `${recipe.runtime} ${recipe.precision} · ${recipe.bundleSha256?.slice(0, 12) ?? ""}`));
  }
  const minutes = Math.floor((Date.now() - Date.parse(status.startedAt)) / 60000);
  if (Number.isFinite(minutes)) made.push(card("up", `${count(Math.max(0, minutes))} min`, `edge ${status.version ?? ""}`));
  if (status.lastReload) made.push(card("last reload", status.lastReload.ok ? "taken over" : "refused", status.lastReload.error ?? ""));
  return made;
}
