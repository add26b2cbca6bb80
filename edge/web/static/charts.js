// Charts: scores against their thresholds, quality over batches, throughput and latency, what waits to be delivered.
import { ask } from "./api.js";
import { badge, choose, count, figure, h, missing, seconds, spoken } from "./dom.js";
import { Plot, chart } from "./plot.js";

const REFRESH_MS = 10000;
const POINTS = 2000;
const DAY = 1440; // minutes
const DRIFT = { too_few: "too few frames to say", ok: "none", watch: "scores move", alarm: "alarm" };
const TABLE_ROWS = 100;
const MOST_SCORE = 3; // what lies higher is drawn at the top
const SPANS = [["15", "15 minutes"], ["60", "an hour"], ["480", "8 hours"], ["1440", "a day"], ["10080", "a week"]];
const kept = { recipe: "", minutes: "60" };

export function showCharts(main, _, back) {
  const shown = new Charts(main);
  shown.keys = { Escape: back };
  return shown;
}

class Charts {
  constructor(main) {
    this.bar = h("div", { class: "bar" }, h("h2", {}, "Charts"));
    this.scores = h("section", { class: "charts", "aria-label": "Scores of each view" });
    this.quality = h("section", { class: "charts", "aria-label": "Quality over batches" });
    this.speed = h("section", { class: "charts", "aria-label": "Throughput and latency" });
    this.outbox = h("section", { "aria-label": "Outbox" });
    this.drawn = new Map();
    main.append(this.bar, h("h3", {}, "Score of each view"), this.scores, h("h3", {}, "Throughput and latency"), this.speed,
      h("h3", {}, "Quality over batches"), h("p", { class: "faint" }, "nQI: mean score of a batch over that of the calibration's good frames. 1 is as good as calibration; what lies beyond the shaded limits (3 σ), drawn as a diamond, is hardly chance."),
      this.quality, h("h3", {}, "Outbox"), this.outbox);
    this.open();
  }

  async open() {
    try {
      this.facets = await ask("api/v1/facets");
      if (!this.facets.recipes.length) throw new Error("no verdict yet");
    } catch {
      const status = await ask("api/v1/status", {}, { evenIf: [503] }).catch(() => {
        this.incomplete = true; // to be asked again when the daemon is back
        return { recipes: {} };
      });
      this.facets = { recipes: Object.keys(status.recipes ?? {}), views: Object.fromEntries(Object.entries(status.recipes ?? {}).map(([name, one]) => [name, one.views ?? []])) };
    }
    if (this.closed) return;
    if (!this.facets.recipes.includes(kept.recipe)) kept.recipe = this.facets.recipes[0] ?? "";
    this.bar.append(choose("Recipe", this.facets.recipes.map((name) => [name, name]), kept.recipe, (value) => { kept.recipe = value; this.refresh(); }),
      choose("Last", SPANS, kept.minutes, (value) => { kept.minutes = value; this.refresh(); }));
    this.timer = setInterval(() => this.refresh(), REFRESH_MS);
    await this.refresh();
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
  }

  async refresh() {
    const tasks = [[this.scores, () => this.drawScores()], [this.speed, () => this.drawSpeed()], [this.quality, () => this.drawQuality()], [this.outbox, () => this.drawOutbox()]];
    await Promise.all(tasks.map(async ([place, draw]) => {
      if (place.querySelector("details[open]")) return; // somebody reads its numbers
      try {
        const made = await draw();
        if (made) place.replaceChildren(...made);
      } catch (error) {
        if (error.status !== 0) place.replaceChildren(missing("Not to be shown", error));
      }
    }));
  }

  async drawScores() {
    const views = this.facets.views?.[kept.recipe] ?? [];
    if (!views.length) return [h("p", { class: "faint" }, "No view has a score yet.")];
    const since = new Date(Date.now() - kept.minutes * 60000).toISOString();
    return Promise.all(views.map(async (view) => {
      const [found, limits] = await Promise.all([ask("api/v1/scores", { recipe: kept.recipe, view, since, limit: POINTS }), this.band(view)]);
      return scoreChart(view, found, limits);
    }));
  }

  /** Lowest and highest score of the calibration's frames; they do not change while one looks. */
  async band(view) {
    const key = `${kept.recipe}\n${view}`;
    if (!this.drawn.has(key)) {
      this.drawn.set(key, await ask("api/v1/explorer", { recipe: kept.recipe, view })
        .then(({ calibration }) => (calibration?.length ? [Math.min(...calibration), Math.max(...calibration)] : null), () => null));
    }
    return this.drawn.get(key);
  }

  async drawSpeed() {
    const { stepS, buckets } = await ask("api/v1/throughput", { minutes: Math.min(DAY, kept.minutes) });
    if (!buckets.length) return [h("p", { class: "faint" }, "No verdict in that time.")];
    const cut = kept.minutes > DAY ? [h("p", { class: "faint" }, "The last day; more is in Prometheus.")] : [];
    return [...cut, throughput(buckets, stepS), latency(buckets)];
  }

  async drawQuality() {
    const { charts } = await ask("api/v1/spc", { recipe: kept.recipe, last: 1 });
    if (!charts.length) return [h("p", { class: "faint" }, "No batch has been counted yet.")];
    return Promise.all(charts.map(control));
  }

  async drawOutbox() {
    const { outbox } = await ask("api/v1/status", {}, { evenIf: [503] });
    const rows = Object.entries(outbox ?? {});
    if (!rows.length) return [h("p", { class: "faint" }, "No sink is configured.")];
    return [h("ul", { class: "sinks" }, rows.map(([name, sink]) => h("li", {}, h("strong", {}, name), badge(sink.connected ? "OK" : "NotOK", sink.connected ? "connected" : "not connected"),
      `${count(sink.depth)} to deliver`, sink.oldestS ? `, oldest ${seconds(sink.oldestS)}` : "", sink.lastError ? h("span", { class: "problem" }, sink.lastError) : null)))];
  }
}

function scoreChart(view, { points, drift }, band) {
  const newest = points.length === POINTS ? "the newest " : "";
  const detail = [`${newest}${count(points.length)} frames`, drift ? driftWords(drift) : "drift: not known"].join(" · ");
  if (!points.length) return h("figure", { class: "chart" }, h("figcaption", {}, h("strong", {}, `View ${view}`), h("span", { class: "faint" }, "no frame in that time")));
  const times = points.map((point) => Date.parse(point.time));
  const [from, to] = [times[0], Math.max(times.at(-1), times[0] + 1000)];
  const top = Math.min(MOST_SCORE, Math.max(1.25, ...points.map((point) => point.score ?? 0)) * 1.05);
  const plot = new Plot({ label: `Scores of view ${view} over time; the threshold is 1`, x: [from, to], y: [0, top], time: true, unit: "score" });
  if (band) plot.band(band[0], Math.min(band[1], top), "scores of the calibration's good frames");
  plot.level(1, "threshold", "threshold");
  points.forEach((point, at) => {
    if (point.score == null) return;
    plot.dot(times[at], point.score, point.evaluation, `${new Date(times[at]).toLocaleString()}: ${point.score.toFixed(3)}, ${spoken(point.evaluation)}`);
  });
  for (const dot of plot.svg.querySelectorAll("circle")) dot.classList.toggle("high", dot.cy.baseVal.value <= plot.py(top) + 0.1);
  const rows = points.slice(-TABLE_ROWS).reverse().map((point) => [new Date(point.time).toLocaleString(), figure(point.score), spoken(point.evaluation)]);
  return chart(`View ${view}`, detail, plot.svg, ["Time", "Score", "Evaluation"], rows);
}

/** Population stability index and Kolmogorov-Smirnov's p of the scores against those of calibration. */
function driftWords({ state, psi, ksP, frames }) {
  const told = [psi == null ? null : `PSI ${figure(psi)}`, ksP == null ? null : `KS p ${figure(ksP)}`, frames == null ? null : `over ${count(frames)} frames`];
  return `drift: ${[DRIFT[state] ?? state, ...told].filter(Boolean).join(", ") || "not known"}`;
}

function throughput(buckets, stepS) {
  const names = ["OK", "NotOK", "NotDecidable"];
  const times = buckets.map((one) => Date.parse(one.time));
  const sums = buckets.map((one) => names.reduce((sum, name) => sum + (one[name] ?? 0), 0));
  const plot = new Plot({ label: `Frames every ${seconds(stepS)}`, x: [times[0], times.at(-1) + 1000 * stepS], y: [0, Math.max(1, ...sums)], time: true, unit: "frames" });
  buckets.forEach((one, at) => {
    let below = 0;
    for (const name of names) {
      const value = one[name] ?? 0;
      if (value) plot.bar(times[at], times[at] + 1000 * stepS, below, below + value, name, `${new Date(times[at]).toLocaleTimeString()}: ${count(value)} ${spoken(name)}`);
      below += value;
    }
  });
  return chart("Throughput", `${count(sums.reduce((a, b) => a + b, 0))} frames, a bar every ${seconds(stepS)}`, plot.svg, ["Time", ...names.map(spoken)],
    buckets.slice(-TABLE_ROWS).reverse().map((one) => [new Date(one.time).toLocaleString(), ...names.map((name) => count(one[name]))]));
}

function latency(buckets) {
  const known = buckets.filter((one) => one.latencyP50_s != null);
  if (!known.length) return h("p", { class: "faint" }, "No latency is known.");
  const times = known.map((one) => Date.parse(one.time));
  const top = Math.max(...known.map((one) => one.latencyP99_s ?? one.latencyP50_s)) * 1.1;
  const plot = new Plot({ label: "Latency, median and 99th percentile", x: [times[0], Math.max(times.at(-1), times[0] + 1000)], y: [0, top], time: true, unit: "s" });
  plot.line(known.map((one, at) => [times[at], one.latencyP50_s]), "trend").line(known.map((one, at) => [times[at], one.latencyP99_s ?? one.latencyP50_s]), "trend high");
  const last = known.at(-1);
  return chart("Latency", `from file complete to verdict: median ${seconds(last.latencyP50_s)}, 99 % within ${seconds(last.latencyP99_s)} (dashed)`, plot.svg, ["Time", "Median", "99 %"],
    known.slice(-TABLE_ROWS).reverse().map((one) => [new Date(one.time).toLocaleString(), seconds(one.latencyP50_s), seconds(one.latencyP99_s)]));
}

async function control(one) {
  const drawn = await ask("api/v1/spc.svg", { recipe: one.recipe, view: one.view });
  const parsed = new DOMParser().parseFromString(drawn, "image/svg+xml");
  const latest = one.points?.at(-1);
  const state = one.inControl == null ? ["unknown", "no limits"] : one.inControl ? ["OK", "in control"] : ["NotOK", "out of control"];
  return h("figure", { class: "chart" }, h("figcaption", {}, h("strong", {}, one.view ? `View ${one.view}` : one.recipe),
    latest ? h("span", { class: "faint" }, `nQI ${figure(latest.nqi)} · batch ${latest.batch || latest.day}, ${count(latest.frames)} frames`) : null, badge(...state)),
  document.importNode(parsed.documentElement, true));
}
