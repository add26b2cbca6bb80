// Colours of anomaly maps. Turbo: A. Mikhailov, "Turbo, an improved rainbow colormap", Google AI blog, 2019;
// the polynomial is his fit of degree 5.
const RED = [0.13572138, 4.6153926, -42.66032258, 132.13108234, -152.94239396, 59.28637943];
const GREEN = [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604];
const BLUE = [0.1066733, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973];
export const AT_THRESHOLD = 128; // grey value of the map where the view's pixel threshold lies

const along = (terms, x) => terms.reduceRight((sum, term) => sum * x + term, 0);
const byte = (x) => Math.round(255 * Math.min(1, Math.max(0, x)));

export const TURBO = Array.from({ length: 256 }, (_, level) => {
  const x = level / 255;
  return [byte(along(RED, x)), byte(along(GREEN, x)), byte(along(BLUE, x))];
});

/** What lies well below the threshold is clear, so that the picture stays to be seen. */
const CLEAR = 0.35 * AT_THRESHOLD;
const alpha = (level) => Math.round(255 * Math.min(1, Math.max(0, (level - CLEAR) / (AT_THRESHOLD - CLEAR))));

/** An image of grey levels → a canvas in colours; `clear`: low levels are transparent. */
export function coloured(image, clear) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth ?? image.width;
  canvas.height = image.naturalHeight ?? image.height;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const data = pixels.data;
  for (let at = 0; at < data.length; at += 4) {
    const level = data[at];
    [data[at], data[at + 1], data[at + 2]] = TURBO[level];
    data[at + 3] = clear ? alpha(level) : 255;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}
