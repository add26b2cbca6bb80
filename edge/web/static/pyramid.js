// One layer of a frame: a small picture at once, then the tiles that are looked at, at the scale they are looked at.
import { picture, tile } from "./api.js";
import { coloured } from "./colour.js";

const TILE_PX = 512;
const AT_ONCE = 6; // as many as a browser asks of one server
const KEPT = 160; // tiles of 512 × 512: 160 MB decoded
const PREVIEW_PX = 1024;
const TRIES = 3;
const RETRY_MS = 1000; // and twice that, and so on

export class Pyramid {
  /** `size`: { width, height, levels } of the layer; `matrix`: plane → frame, for layers that lie on the plane. */
  constructor(id, layer, size, matrix, changed) {
    Object.assign(this, { id, layer, size, matrix, changed });
    this.tiles = new Map(); // "z/x/y" → { image, ready }
    this.wanted = [];
    this.loading = 0;
    this.failed = null;
    this.preview = null;
    this.overlay = null;
    this.first = new Promise((resolve) => { this.shown = resolve; });
    this.load(picture(id, layer, PREVIEW_PX)).then((image) => {
      this.preview = layer === "map" ? coloured(image, false) : image;
      this.grey = image;
      if (layer === "map") this.overlay = coloured(image, true);
      this.shown();
      changed();
    }, () => {
      this.failed = "The picture cannot be loaded.";
      this.shown();
      changed();
    });
  }

  /** A picture that does not come is asked for again: the daemon may be busy with another. */
  async load(url) {
    for (let tried = 1; ; tried++) {
      const image = new Image();
      image.src = url;
      try {
        await image.decode();
        return image;
      } catch (error) {
        if (tried === TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2 ** (tried - 1)));
      }
    }
  }

  /** Draw what is there of the rectangle of the layer that is seen, and ask for what is not.
   *  `scale`: screen pixels a layer pixel. The pen already has the layer's transformation. */
  draw(pen, seen, scale) {
    const { width, height, levels } = this.size;
    if (this.preview) pen.drawImage(this.preview, 0, 0, width, height);
    if (this.layer === "map") return true; // maps are small: the preview is all of it
    const level = Math.max(0, Math.min(levels - 1, Math.floor(Math.log2(1 / scale) + 1e-6)));
    const previewScale = Math.min(1, PREVIEW_PX / Math.max(width, height));
    this.wanted = [];
    if (previewScale >= Math.min(1, scale)) return true; // the preview is sharp enough
    for (let z = Math.min(levels - 1, level + 2); z > level; z--) this.paint(pen, seen, z, false);
    const sharp = this.paint(pen, seen, level, true);
    this.pump();
    return sharp;
  }

  paint(pen, seen, z, ask) {
    const step = TILE_PX * 2 ** z;
    const { width, height } = this.size;
    let complete = true;
    const range = (from, to, most) => [Math.max(0, Math.floor(from / step)), Math.min(Math.ceil(most / step) - 1, Math.floor(to / step))];
    const [left, right] = range(seen.left, seen.right, width);
    const [top, bottom] = range(seen.top, seen.bottom, height);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const key = `${z}/${x}/${y}`;
        const known = this.tiles.get(key);
        if (known?.ready) {
          this.tiles.delete(key);
          this.tiles.set(key, known); // least recently seen first
          pen.drawImage(known.image, x * step, y * step, Math.min(step, width - x * step), Math.min(step, height - y * step));
        } else {
          complete = false;
          if (ask && !known) this.wanted.push([z, x, y]);
        }
      }
    }
    return complete;
  }

  pump() {
    while (this.loading < AT_ONCE && this.wanted.length) {
      const [z, x, y] = this.wanted.shift();
      const key = `${z}/${x}/${y}`;
      if (this.tiles.has(key)) continue;
      const entry = { ready: false };
      this.tiles.set(key, entry);
      this.loading += 1;
      this.load(tile(this.id, this.layer, z, x, y))
        .then((image) => Object.assign(entry, { image, ready: true }), () => {
          this.failed = "Parts of the picture cannot be loaded: what is blurred there is a smaller picture. Open the verdict again.";
        })
        .finally(() => {
          this.loading -= 1;
          for (const old of this.tiles.keys()) {
            if (this.tiles.size <= KEPT) break;
            this.tiles.delete(old);
          }
          this.changed();
        });
    }
  }

  /** Grey value 0..255 at a pixel of the layer, of the sharpest that is loaded; null where there is none. */
  value(x, y) {
    const whole = this.tiles.get(`0/${Math.floor(x / TILE_PX)}/${Math.floor(y / TILE_PX)}`);
    if (whole?.ready) return pixel(whole.image, x % TILE_PX, y % TILE_PX);
    if (!this.grey) return null;
    return pixel(this.grey, (x * this.grey.naturalWidth) / this.size.width, (y * this.grey.naturalHeight) / this.size.height);
  }
}

let probe = null;

function pixel(image, x, y) {
  probe ??= Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  probe.drawImage(image, Math.floor(x), Math.floor(y), 1, 1, 0, 0, 1, 1);
  return probe.getImageData(0, 0, 1, 1).data[0];
}
