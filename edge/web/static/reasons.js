// What the reasons of a verdict mean, and what to do.
const OUTSIDE = "the picture is not like those of calibration, so its score would mean nothing";
const LIGHT = "Look at lamp, exposure and lens; if the change is meant, calibrate again with new good frames.";
const WORDS = {
  score_above_threshold: ["The frame differs from good ones by more than the view's threshold.", "Look at the marked places. If the part is good, overrule: reviews feed the next calibration."],
  in_review_band: ["OK, but near the threshold.", "Have a person look at it."],
  threshold_estimated: ["This view has no calibration of its own; its threshold is estimated from the other views.", "Calibrate this view with good frames."],
  view_not_calibrated: ["There is no threshold for this view, so nothing can be said.", "Run edge calibrate with good frames of this view."],
  score_not_finite: ["The network's answer is not a number.", "Run edge doctor; if it stays, compile the engine again."],
  brightness_outside_calibration: [`Brightness is outside what calibration saw: ${OUTSIDE}.`, LIGHT],
  contrast_outside_calibration: [`Contrast is outside what calibration saw: ${OUTSIDE}.`, LIGHT],
  sharpness_outside_calibration: [`Sharpness is outside what calibration saw: ${OUTSIDE}.`, "Look at focus, motion and dirt on the lens."],
  colour_outside_calibration: [`Colour is outside what calibration saw: ${OUTSIDE}.`, LIGHT],
  foreground_outside_calibration: [`The part covers another area than in calibration: ${OUTSIDE}.`, "Look whether the right part lies where it should."],
  size_outside_calibration: [`The frame has another size than in calibration: ${OUTSIDE}.`, "Look at the scanner's settings."],
  truncated: ["The file ends before the picture does.", "Look at the scanner's transfer; it should rename files into place when whole."],
  unsupported_format: ["The file is in a format that is not read.", "See the list of formats; set the scanner to one of them."],
  name_unmatched: ["The file's name does not say which part and view it is.", "Mend template or pattern of the source in config.toml."],
  view_not_ok: ["A view of this part is not OK.", "Open that view."],
  view_not_decidable: ["A view of this part could not be judged.", "Open that view."],
  view_repeated: ["A view of this part came more than once; the worse counts.", "Look whether names of parts are unique."],
  decoder_crashed: ["The file made its reader crash.", "Keep the file, and look at it with another program."],
  decoder_timeout: ["Reading the file took too long.", "Look at its size, and at the machine's load."],
  too_large: ["The picture has more pixels than are allowed.", "Raise the limit in config.toml if it is meant."],
  views_missing: ["Views of this part did not come in time.", "Look whether the scanner takes them all; part_timeout_s in config.toml says how long is waited."],
  engine_lost: ["The engine stopped while it looked at this frame.", "Run edge doctor --gpu."],
};

export const meaning = (reason) => WORDS[reason]?.[0] ?? `${String(reason).replaceAll("_", " ")}.`;
export const remedy = (reason) => WORDS[reason]?.[1] ?? null;
