// From the plane that was judged to the frame's own pixels, and back: 3 × 3 matrices, rows first.

export const IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

export function apply(m, x, y) {
  const w = m[2][0] * x + m[2][1] * y + m[2][2];
  return [(m[0][0] * x + m[0][1] * y + m[0][2]) / w, (m[1][0] * x + m[1][1] * y + m[1][2]) / w];
}

export function inverse(m) {
  const [[a, b, c], [d, e, f], [g, i, j]] = m;
  const det = a * (e * j - f * i) - b * (d * j - f * g) + c * (d * i - e * g);
  return [
    [(e * j - f * i) / det, (c * i - b * j) / det, (b * f - c * e) / det],
    [(f * g - d * j) / det, (a * j - c * g) / det, (c * d - a * f) / det],
    [(d * i - e * g) / det, (b * g - a * i) / det, (a * e - b * d) / det],
  ];
}

const SMALL = 1e-9;
export const isAffine = (m) => Math.abs(m[2][0]) < SMALL && Math.abs(m[2][1]) < SMALL;

/** The six numbers that a canvas takes of an affine matrix. */
export const affine = (m) => [m[0][0], m[1][0], m[0][1], m[1][1], m[0][2], m[1][2]].map((value) => value / m[2][2]);

const WARPED_PX = 1024;

/** A canvas of the plane → one that lies over the frame, pixel by pixel, for what a canvas cannot transform. */
export function warped(plane, planeSize, matrix, frame) {
  const scale = Math.min(1, WARPED_PX / Math.max(frame.width, frame.height));
  const made = document.createElement("canvas");
  made.width = Math.max(1, Math.round(frame.width * scale));
  made.height = Math.max(1, Math.round(frame.height * scale));
  const source = plane.getContext("2d").getImageData(0, 0, plane.width, plane.height);
  const target = made.getContext("2d").createImageData(made.width, made.height);
  const from = new Uint32Array(source.data.buffer);
  const to = new Uint32Array(target.data.buffer);
  const back = inverse(matrix);
  for (let y = 0; y < made.height; y++) {
    for (let x = 0; x < made.width; x++) {
      const [u, v] = apply(back, (x + 0.5) / scale, (y + 0.5) / scale);
      const column = Math.floor((u * plane.width) / planeSize.width);
      const row = Math.floor((v * plane.height) / planeSize.height);
      const inside = column >= 0 && row >= 0 && column < plane.width && row < plane.height;
      to[y * made.width + x] = inside ? from[row * plane.width + column] : 0;
    }
  }
  made.getContext("2d").putImageData(target, 0, 0);
  return made;
}
