// Small charts as SVG: axes, lines, dots, bands; each with its numbers as a table for those who do not see it.
import { figure, h, s, table } from "./dom.js";

const WIDTH = 720;
const HEIGHT = 220;
const LEFT = 52;
const RIGHT = 14;
const TOP = 10;
const BOTTOM = 30;
const TICKS = 5;

/** Round numbers that divide a range. */
export function ticks(from, to, wanted = TICKS) {
  const rough = (to - from) / wanted;
  if (!(rough > 0)) return [from];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(from / step - 1e-9) * step; at <= to + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

const SPANS_S = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];

function timeTicks(from, to) {
  const step = 1000 * (SPANS_S.find((span) => (to - from) / (1000 * span) <= TICKS + 1) ?? SPANS_S.at(-1));
  const shift = new Date(from).getTimezoneOffset() * 60000;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  return found;
}

function clock(at, span) {
  const then = new Date(at);
  return span > 2 * 86400e3 ? then.toLocaleDateString(undefined, { month: "short", day: "numeric" })
    : then.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", ...(span < 600e3 ? { second: "2-digit" } : {}) });
}

export class Plot {
  constructor({ label, x, y, time = false, unit = "", width = WIDTH, height = HEIGHT, told = figure }) {
    Object.assign(this, { x, y, time, height, told });
    this.right = width - RIGHT;
    this.bottom = height - BOTTOM;
    this.svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": label });
    this.axes(unit);
  }

  px(value) { return LEFT + ((value - this.x[0]) / (this.x[1] - this.x[0] || 1)) * (this.right - LEFT); }
  py(value) { return this.bottom - ((Math.min(this.y[1], Math.max(this.y[0], value)) - this.y[0]) / (this.y[1] - this.y[0] || 1)) * (this.bottom - TOP); }
  back(px) { return this.x[0] + ((px - LEFT) / (this.right - LEFT)) * (this.x[1] - this.x[0]); }

  axes(unit) {
    for (const at of ticks(...this.y, 4)) {
      this.svg.append(s("line", { class: "grid", x1: LEFT, x2: this.right, y1: this.py(at), y2: this.py(at) }),
        s("text", { x: LEFT - 6, y: this.py(at) + 4, "text-anchor": "end" }, this.told(at)));
    }
    for (const at of this.time ? timeTicks(...this.x) : ticks(...this.x, 8)) {
      this.svg.append(s("text", { x: this.px(at), y: this.bottom + 18, "text-anchor": "middle" }, this.time ? clock(at, this.x[1] - this.x[0]) : figure(at)));
    }
    this.svg.append(s("line", { class: "axis", x1: LEFT, x2: this.right, y1: this.bottom, y2: this.bottom }));
    if (unit) this.svg.append(s("text", { x: LEFT + 4, y: TOP + 10, class: "unit" }, unit));
  }

  add(...marks) {
    this.svg.append(...marks);
    return this;
  }

  band(from, to, title) {
    return this.add(s("rect", { class: "band", x: LEFT, width: this.right - LEFT, y: this.py(to), height: Math.max(0, this.py(from) - this.py(to)) }, s("title", {}, title)));
  }

  level(value, name, text) {
    return this.add(s("line", { class: name, x1: LEFT, x2: this.right, y1: this.py(value), y2: this.py(value) }),
      s("text", { class: name, x: this.right - 4, y: this.py(value) - 4, "text-anchor": "end" }, text));
  }

  line(points, name = "trend") {
    const path = points.map(([x, y]) => `${this.px(x).toFixed(1)},${this.py(y).toFixed(1)}`).join(" ");
    return this.add(s("polyline", { class: name, points: path }));
  }

  dot(x, y, name, title) {
    return this.add(s("circle", { class: `dot ${name}`, cx: this.px(x).toFixed(1), cy: this.py(y).toFixed(1), r: 2.6 }, s("title", {}, title)));
  }

  bar(from, to, low, high, name, title) {
    const [left, right] = [this.px(from), this.px(to)];
    return this.add(s("rect", { class: `bar ${name}`, x: left + 0.5, width: Math.max(0.5, right - left - 1), y: this.py(high), height: Math.max(0, this.py(low) - this.py(high)) }, s("title", {}, title)));
  }
}

/** A chart with its title and, folded away, its numbers. */
export function chart(title, detail, plot, columns, rows) {
  return h("figure", { class: "chart" }, h("figcaption", {}, h("strong", {}, title), h("span", { class: "faint" }, detail)), plot,
    rows?.length ? h("details", {}, h("summary", {}, "Numbers"), h("div", { class: "scroll" }, table(title, columns, rows))) : null);
}
