// A canvas that shows a layer of a frame: zoom, pan, overlay of the map, boxes of defects. World units are pixels of the frame.
import { IDENTITY, affine, apply, inverse, isAffine, warped } from "./projection.js";

const MOST = 32; // screen pixels a pixel
const MARGIN = 0.98;

/** What is seen: shared by canvases that lie side by side. `fit` follows the window until a person zooms. */
export class Gaze {
  constructor(width, height) {
    Object.assign(this, { width, height, x: width / 2, y: height / 2, scale: 1, fit: true, stages: new Set() });
  }

  changed() {
    for (const stage of this.stages) stage.ask();
  }

  least(stage) {
    return Math.min(stage.canvas.width / this.width, stage.canvas.height / this.height) * MARGIN;
  }

  zoom(stage, factor, px = stage.canvas.width / 2, py = stage.canvas.height / 2) {
    const [wx, wy] = stage.world(px, py);
    const least = Math.min(1, this.least(stage));
    const scale = Math.min(MOST, Math.max(least, this.scale * factor));
    this.fit = scale <= least;
    this.scale = scale;
    this.x = wx - (px - stage.canvas.width / 2) / scale;
    this.y = wy - (py - stage.canvas.height / 2) / scale;
    this.keepInside();
  }

  whole() {
    this.fit = true;
    this.changed();
  }

  at(scale, x, y) {
    Object.assign(this, { scale: Math.min(MOST, scale), x, y, fit: false });
    this.keepInside();
  }

  move(dx, dy) {
    if (dx || dy) this.fit = false;
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.keepInside();
  }

  keepInside() {
    this.x = Math.min(this.width, Math.max(0, this.x));
    this.y = Math.min(this.height, Math.max(0, this.y));
    this.changed();
  }
}

export class Stage {
  constructor(gaze, label) {
    this.gaze = gaze;
    this.base = null;
    this.map = null;
    this.opacity = 0.5;
    this.boxes = [];
    this.chosen = -1;
    this.onlook = () => {};
    this.onsharp = () => {};
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", label);
    this.canvas.className = "stage";
    this.pen = this.canvas.getContext("2d");
    gaze.stages.add(this);
    this.size = new ResizeObserver(() => this.resize());
    this.size.observe(this.canvas);
    this.hands();
  }

  close() {
    this.gaze.stages.delete(this);
    this.size.disconnect();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (width !== this.canvas.width || height !== this.canvas.height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.gaze.changed();
  }

  ask() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.draw();
    });
  }

  world(px, py) {
    const { x, y, scale } = this.gaze;
    return [x + (px - this.canvas.width / 2) / scale, y + (py - this.canvas.height / 2) / scale];
  }

  draw() {
    const { gaze, pen, canvas } = this;
    if (gaze.fit) Object.assign(gaze, { scale: gaze.least(this), x: gaze.width / 2, y: gaze.height / 2 });
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    // whole pixels: otherwise 1:1 is not 1:1
    const left = Math.round(canvas.width / 2 - gaze.x * gaze.scale);
    const top = Math.round(canvas.height / 2 - gaze.y * gaze.scale);
    const frame = () => pen.setTransform(gaze.scale, 0, 0, gaze.scale, left, top);
    frame();
    pen.imageSmoothingEnabled = gaze.scale < 1;
    const sharp = this.base ? this.layer(this.base) : false;
    frame();
    if (this.map?.overlay && this.opacity > 0 && this.base?.layer !== "map") this.over();
    frame();
    this.frames(pen);
    this.onlook();
    this.onsharp(sharp);
  }

  layer(base) {
    const { pen, canvas, gaze } = this;
    const matrix = base.matrix ?? IDENTITY;
    if (!isAffine(matrix)) {
      if (base.preview) pen.drawImage(this.bent(base, "preview"), 0, 0, gaze.width, gaze.height);
      return true;
    }
    pen.transform(...affine(matrix));
    const back = inverse(matrix);
    const corners = [[0, 0], [canvas.width, 0], [0, canvas.height], [canvas.width, canvas.height]]
      .map(([x, y]) => apply(back, ...this.world(x, y)));
    const seen = {
      left: Math.min(...corners.map((at) => at[0])), right: Math.max(...corners.map((at) => at[0])),
      top: Math.min(...corners.map((at) => at[1])), bottom: Math.max(...corners.map((at) => at[1])),
    };
    return base.draw(pen, seen, gaze.scale * Math.hypot(...affine(matrix).slice(0, 2)));
  }

  over() {
    const { pen, map, gaze } = this;
    pen.globalAlpha = this.opacity;
    pen.imageSmoothingEnabled = true;
    const matrix = map.matrix ?? IDENTITY;
    if (isAffine(matrix)) {
      pen.transform(...affine(matrix));
      pen.drawImage(map.overlay, 0, 0, map.size.width, map.size.height);
    } else pen.drawImage(this.bent(map, "overlay"), 0, 0, gaze.width, gaze.height);
    pen.globalAlpha = 1;
  }

  /** A layer of a plane seen at an angle, bent once and kept. */
  bent(pyramid, name) {
    const kept = `bent ${name}`;
    if (pyramid[kept]) return pyramid[kept];
    let flat = pyramid[name];
    if (!(flat instanceof HTMLCanvasElement)) {
      flat = Object.assign(document.createElement("canvas"), { width: flat.naturalWidth, height: flat.naturalHeight });
      flat.getContext("2d").drawImage(pyramid[name], 0, 0);
    }
    pyramid[kept] = warped(flat, pyramid.size, pyramid.matrix, this.gaze);
    return pyramid[kept];
  }

  frames(pen) {
    const line = 2 * (window.devicePixelRatio || 1) / this.gaze.scale;
    this.boxes.forEach(([x, y, w, h], at) => {
      const chosen = at === this.chosen;
      for (const [width, colour] of [[2.4 * line, "rgb(0 0 0 / 70%)"], [(chosen ? 1.6 : 1) * line, chosen ? "#ffe14d" : "#ff5a4f"]]) {
        pen.lineWidth = width;
        pen.strokeStyle = colour;
        pen.strokeRect(x - line, y - line, w + 2 * line, h + 2 * line);
      }
    });
  }

  /** Wheel, drag, pinch, double click. */
  hands() {
    const { canvas, gaze } = this;
    const ratio = () => canvas.width / Math.max(1, canvas.clientWidth);
    const place = (event) => [event.offsetX * ratio(), event.offsetY * ratio()];
    const fingers = new Map();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      gaze.zoom(this, Math.exp(-Math.max(-300, Math.min(300, event.deltaY)) / 400), ...place(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const [x, y] = this.world(...place(event));
      if (gaze.scale < 0.999) gaze.at(1, x, y);
      else gaze.whole();
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = place(event);
      this.look(now);
      if (!fingers.has(event.pointerId)) return;
      const before = [...fingers.values()];
      const old = fingers.get(event.pointerId);
      fingers.set(event.pointerId, now);
      if (fingers.size === 2) this.pinch(before, [...fingers.values()]);
      else gaze.move(now[0] - old[0], now[1] - old[1]);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.look(null));
  }

  pinch(before, after) {
    const apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const [from, to] = [middle(before), middle(after)];
    this.gaze.move(to[0] - from[0], to[1] - from[1]);
    this.gaze.zoom(this, apart(after) / Math.max(1, apart(before)), ...to);
  }

  look(at) {
    this.pointer = at && this.world(...at);
    this.onlook();
  }
}
