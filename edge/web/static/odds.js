// Shares with their uncertainty, and what a threshold would do.

const Z = 1.959963984540054; // 95 %, both sides

/** Wilson's score interval (1927) of `found` among `all`; null where there are none. */
export function wilson(found, all) {
  if (!all) return null;
  const share = found / all;
  const spread = Z * Math.sqrt((share * (1 - share)) / all + (Z * Z) / (4 * all * all));
  const middle = share + (Z * Z) / (2 * all);
  const whole = 1 + (Z * Z) / all;
  return [found === 0 ? 0 : (middle - spread) / whole, found === all ? 1 : (middle + spread) / whole];
}

/** At a normalised threshold: good ones above it are false rejects, defective ones not above it escapes. */
export function outcome({ calibration, frames }, threshold) {
  const scored = frames.filter((one) => one.score != null);
  const good = scored.filter((one) => one.truth === "OK").map((one) => one.score);
  const bad = scored.filter((one) => one.truth === "NotOK").map((one) => one.score);
  const above = (scores) => scores.filter((score) => score > threshold).length;
  const rate = (found, all) => ({ found, all, interval: wilson(found, all) });
  return {
    calibration: rate(above(calibration), calibration.length),
    falseRejects: rate(above(good), good.length),
    escapes: rate(bad.length - above(bad), bad.length),
    rejected: rate(above(scored.map((one) => one.score)), scored.length),
  };
}
