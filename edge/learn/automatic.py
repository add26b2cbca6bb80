"""What `edge learn` chooses where nothing was asked for, from facts of the good frames, and why."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from edge.errors import UsageError
from edge.infer.bundle import ScoreSpec
from edge.learn.anomalies.batches import AnomalyPlan
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import COHERENT, SPLICED, AnomalyMix
from edge.learn.models import of_name
from edge.learn.survey import Survey
from edge.preprocess import TileSpec
from edge.preprocess.tiles import Tiling

MODEL, OF_ALIGNED = "anomaly-unet", "fusion-aligned"
LEAST_ALIGNED_FRAMES = 10  # that say how each place of a scene varies
MOST_SHRUNK = 4.0  # of a side, to the size of a network that has its own: small defects would vanish
ALWAYS = ("model", "illumination")  # chosen whatever the model is
MOST_PIXELS = 3_000_000  # of a plane that is not made smaller even where nothing would be lost
MOST_PIXELS_A_FRAME = 6_000_000  # … even where something would be
LEAST_FINEST_PX = 2.5  # wavelength that a smaller plane still carries: a quarter above Nyquist's 2 px
SMALLEST_SCALE = 0.25
SMALL_SIDE_PX = 128  # frames with a shorter side are magnified
TINY_SIDE_PX = 48  # … and these twice
EXPOSURE_DIFFERS = 0.15  # relative: cameras and lamps drift by a few per cent, exposures are set by more
GAIN_LIKE = 0.8  # of what the quartiles vary, so much must go when a frame is divided by its median
MOST_DARK_MEDIANS = 0.05  # of frames: the median of a black background measures no light
MOST_CLIPPED = 0.01  # of pixels
TILE_MULTIPLE_PX = 32
LEAST_TILE_PX, MOST_TILE_PX = 128, 768  # smaller: mostly margin; larger: memory for the network's activations
MARGIN_PX = 32  # of mirrored surroundings, where frames show a part: its edge then looks like an edge
OVERLAP_PX = 32  # of neighbouring tiles: beside an edge the network knows half of what is around a pixel
WINDOW_PX = 128  # that the network learns from
MOST_LOST_AT_HALF = 0.01  # of the texture's variance
BORDER_UNLIKE = 0.5  # of frames: at a side where most differ, the border is part of the picture
AT_BORDER = 0.3  # of windows
ALONG_AXIS = 0.98  # |cos 2θ|: within 6° of rows or columns
STRIPES = 0.12
VISIBLE_SIGMA = 5.0  # of the noise: Rose's criterion for a detail to be seen for sure (JOSA 38, 1948)
VISIBLE = (0.04, 0.06)  # of the scale
SMOOTH_PX = (2.0, 4.0)  # σ
PEAK_PX = 8
TOP_PX = 100  # a frame's score is the mean of so many of its map's highest pixels, …
MOST_TOP = 0.003  # … and never of more than this share of them
MOST_SURFACE_CONTRAST = 0.15  # of the scale: texture so strong hides what is faint, which is then not learned
SURFACE = AnomalyMix(  # worked surfaces and parts: faint cracks, specks and stains count, and whole regions
    balance_areas=True,
    shapes={"blob": 0.27, "polygon": 0.15, "curve": 0.1, "crack": 0.13, "specks": 0.15, "band": 0.2},
    fills={
        "foreign-texture": 0.2, "turned-texture": 0.05, "noise": 0.15, "own-pixels": 0.2, "shade": 0.1,
        "flat": 0.2, "splice": 0.1,
    },
)  # fmt: skip

Value = TypeVar("Value")
Illumination = Literal["none", "median"]


@dataclass(frozen=True, slots=True)
class Movement:
    """How good windows are moved; 0 leaves them where they are."""

    trim: float = 0.0  # of a frame's sides
    zoom: float = 0.0  # relative
    turn_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice(Generic[Value]):
    """What was chosen, and why."""

    value: Value
    why: str


@dataclass(frozen=True, slots=True)
class Choices:
    """All that `edge learn` needs to know beside the frames and the minutes."""

    model: Choice[str]
    scale: Choice[float]  # plane pixels per frame pixel
    tiles: Choice[TileSpec]
    illumination: Choice[Illumination]
    mix: Choice[AnomalyMix]
    lighting: Choice[Lighting]
    at_border: Choice[float]  # share of windows that touch a frame's border
    flips: Choice[tuple[bool, bool]]  # left-right, top-bottom
    transpose: Choice[bool]
    movement: Choice[Movement]
    score: Choice[ScoreSpec]

    @property
    def plan(self) -> AnomalyPlan:
        """What a segmenter of synthetic anomalies learns from."""
        across, down = self.flips.value
        return AnomalyPlan(
            mix=self.mix.value,
            lighting=self.lighting.value,
            at_border=self.at_border.value,
            flip_across=across,
            flip_down=down,
            transpose=self.transpose.value,
            **asdict(self.movement.value),
        )

    def sentences(self) -> list[str]:
        """For people, one for each choice."""
        return [f"{name.replace('_', ' ')} {_said(getattr(self, name))}" for name in self._in_effect()]

    def record(self) -> dict[str, Any]:
        """JSON for the bundle's record of its training: name → value and why."""
        return {
            name: {"value": _plain(getattr(self, name).value), "why": getattr(self, name).why}
            for name in self._in_effect()
        }

    def _in_effect(self) -> list[str]:
        """The choices that the model has a use for."""
        kind = of_name(self.model.value)
        if kind.plan is None:
            return list(ALWAYS)
        idle = ("scale", "tiles") if kind.size_px else ()
        return [f.name for f in fields(self) if f.name not in idle]


def choose(
    seen: Survey,
    pinned: Mapping[str, Any] | None = None,
    *,
    keeps_size: bool = False,
    masked: bool = False,
) -> Choices:
    """Choices by the facts of good frames; a pinned value goes before them, and others follow from it.

    Args:
        seen: the facts.
        pinned: name → value.
        keeps_size: no network that brings every frame to a size of its own.
        masked: scores are over a part's foreground, of which the facts say nothing.

    Raises:
        UsageError: there is no choice of that name.
    """
    given = dict(pinned or {})
    names = [f.name for f in fields(Choices)]
    if unknown := [name for name in given if name not in names]:
        near = difflib.get_close_matches(unknown[0], names)
        raise UsageError(f"nothing named {unknown[0]!r} is chosen", hint=f"choose {', '.join(near or names)}")

    def one(name: str, chosen: Choice[Any]) -> Any:
        return Choice(given[name], "as asked for") if name in given else chosen

    model: Choice[str] = one("model", _model(seen, keeps_size))
    scale: Choice[float] = one("scale", _scale(seen))
    illumination: Choice[Illumination] = one("illumination", _illumination(seen))
    return Choices(
        model=model,
        scale=scale,
        tiles=one("tiles", _tiles(seen, scale.value)),
        illumination=illumination,
        mix=one("mix", _mix(seen)),
        lighting=one("lighting", _lighting(seen, illumination.value)),
        at_border=one("at_border", _at_border(seen)),
        flips=one("flips", _flips(seen)),
        transpose=one("transpose", _transpose(seen)),
        movement=one("movement", _movement(seen)),
        score=one("score", _score(seen, scale.value, model.value, masked)),
    )


def tiles_for(sizes: Sequence[tuple[int, int]], margin_px: int = 0) -> tuple[TileSpec, float]:
    """(tiles that compute the fewest pixels for planes of these (height, width)s, computed per plane pixel).

    With a margin the tiles reach beyond the plane's mirrored border; without one they stay inside the plane,
    and neighbours overlap: mirrored texture has knots that no real one has, and those would count as good.
    Of tiles that cost the same within 2 % the larger have fewer seams.
    """
    best, least = TileSpec(), math.inf
    for size_px in range(MOST_TILE_PX, LEAST_TILE_PX - 1, -TILE_MULTIPLE_PX):
        keep_px = size_px - 2 * margin_px
        tiles = TileSpec(
            size_px=size_px, keep_px=keep_px, step_px=keep_px if margin_px else size_px - OVERLAP_PX
        )
        costs = [_count(*size, tiles) * size_px**2 / math.prod(size) for size in sizes]
        cost = sum(costs) / len(costs)
        if cost < 0.98 * least:
            best, least = tiles, cost
    return best, least


def _count(height: int, width: int, tiles: TileSpec) -> int:
    return len(Tiling(height, width, tiles))


def _model(seen: Survey, keeps_size: bool) -> Choice[str]:
    kinds = {
        "aligned": "frames show the same scene at the same place",
        "movable": "frames show the same scene, not quite at the same place",
        "texture": "frames have no scene in common",
        "unknown": "one frame does not say what frames have in common",
    }
    why = f"{seen.frames} good frames; {kinds[seen.layout.kind]}"
    if seen.layout.kind == "aligned" and seen.frames >= LEAST_ALIGNED_FRAMES:
        if keeps_size:
            return Choice(
                MODEL, f"{why}, but {OF_ALIGNED} has a size of its own, and crops or a size were given"
            )
        own = math.sqrt(math.prod(of_name(OF_ALIGNED).size_px or (0, 0)))
        if math.sqrt(seen.sizes.height * seen.sizes.width) > MOST_SHRUNK * own:
            return Choice(
                MODEL, f"{why}, but at {own:.0f} px, which is {OF_ALIGNED}'s size, defects would vanish"
            )
        return Choice(OF_ALIGNED, f"{why}, so each place is also held to what it was in them")
    return Choice(MODEL, why)


def _scale(seen: Survey) -> Choice[float]:
    height, width = seen.sizes.height, seen.sizes.width
    size = f"frames are {width}×{height}"
    shorter = min(height, width)
    if shorter < SMALL_SIDE_PX:
        scale = 4.0 if shorter < TINY_SIDE_PX else 2.0
        return Choice(scale, f"{size}, and the network looks for defects of a few pixels up")
    pixels, finest = height * width, seen.texture.finest_px
    if _shows_part(seen) and shorter >= 1.5 * WINDOW_PX:
        lost = seen.texture.lost_at_half
        if lost <= MOST_LOST_AT_HALF:
            return Choice(0.5, f"{size}, and half the size loses {lost:.1%} of the texture")
        if shorter <= 3 * WINDOW_PX:
            return Choice(0.5, f"{size}: at half the size the network sees most of the part at once")
    if pixels <= MOST_PIXELS:
        return Choice(1.0, f"{size}, few enough pixels to look at each")
    scale = 1.0
    while (
        scale > SMALLEST_SCALE and pixels * scale**2 > MOST_PIXELS and finest * scale / 2 >= LEAST_FINEST_PX
    ):
        scale /= 2
    detail = f"the finest detail above the noise is {finest:.1f} px long"
    if pixels * scale**2 > MOST_PIXELS_A_FRAME:
        while scale > SMALLEST_SCALE and pixels * scale**2 > MOST_PIXELS_A_FRAME:
            scale /= 2
        return Choice(
            scale,
            f"{size}: so that a small machine keeps up with several of them a second; {detail}, and "
            f"--scale 1 looks at every pixel for {1 / scale**2:.0f} times the work",
        )
    if scale == 1:
        return Choice(1.0, f"{size}, but {detail}, which less would lose")
    return Choice(scale, f"{size}, and {detail}, which is kept")


def _tiles(seen: Survey, scale: float) -> Choice[TileSpec]:
    sizes = [(max(1, round(h * scale)), max(1, round(w * scale))) for h, w in seen.sizes.examples]
    tiles, cost = tiles_for(sizes, MARGIN_PX if _shows_part(seen) else 0)
    counts = sorted({_count(*size, tiles) for size in sizes})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return Choice(tiles, f"{many} for a frame; {cost:.2f} pixels are computed for each of its own")


def _illumination(seen: Survey) -> Choice[Illumination]:
    light = seen.light
    spread = (1 + light.exposure_within) * (1 + light.exposure_between) - 1
    differs = f"median grey differs by up to {spread:.0%}"
    if spread <= EXPOSURE_DIFFERS:
        return Choice("none", f"{differs}, no more than lamps drift")
    if light.dark_median > MOST_DARK_MEDIANS:
        return Choice("none", f"the median of {light.dark_median:.0%} of the frames is background")
    if light.gain_like < GAIN_LIKE:
        return Choice("none", f"{differs}, but not by a factor as exposures do: frames show different things")
    if light.clipped_by_median > MOST_CLIPPED:
        return Choice("none", f"{differs}, but dividing by it would clip {light.clipped_by_median:.0%}")
    return Choice("median", f"{differs}, by a factor, as exposures do")


def _mix(seen: Survey) -> Choice[AnomalyMix]:
    texture = seen.texture
    visible = round(min(max(VISIBLE_SIGMA * texture.noise, VISIBLE[0]), VISIBLE[1]), 3)
    hidden = f"noise of {texture.noise:.4f} hides changes below {visible:.3f}"
    if texture.contrast > MOST_SURFACE_CONTRAST:
        strong = f"texture of {texture.contrast:.2f} of the scale hides faint cracks and specks"
        return Choice(replace(AnomalyMix(), visible=visible), f"{strong}; {hidden}")
    faint = f"texture of {texture.contrast:.2f} of the scale shows faint cracks and specks"
    mix = replace(SURFACE, visible=visible)
    if seen.layout.kind in ("aligned", "movable"):  # what is good elsewhere in a scene is not good here
        mix = replace(mix, fills=_pasted(mix.fills), region_fills=_pasted(mix.region_fills))
    return Choice(mix, f"{faint}; {hidden}")


def _pasted(fills: Mapping[str, float]) -> dict[str, float]:
    """Pieces of the scene are wrong all over, not at their seams only."""
    return {"paste" if name == SPLICED else name: weight for name, weight in fills.items()}


def _lighting(seen: Survey, illumination: Illumination) -> Choice[Lighting]:
    light = seen.light
    usual = Lighting()
    of_lamps = light.gain_like >= GAIN_LIKE  # otherwise frames differ by what they show
    exposure = light.exposure_within if of_lamps and illumination == "none" else 0.0
    uneven = min(0.25, light.uneven_varying) if of_lamps else 0.0
    across = math.cos(2 * seen.texture.direction_rad)  # 1 where its lines are rows, -1 where they are columns
    along_axis = _directed(seen) and abs(across) > ALONG_AXIS
    chosen = replace(
        usual,
        gain=round(min(0.3, max(usual.gain, exposure)), 3),
        field=round(uneven, 3),
        stripes=STRIPES if along_axis else 0.0,
        stripes_run="across" if along_axis and across > 0 else "down",
        noise=round(max(usual.noise, seen.texture.noise / 2), 4),
    )
    reason = f"between good frames exposure differs by {exposure:.0%} and uneven light by {uneven:.0%}"
    return Choice(chosen, reason + ("; streaks run along the texture" if along_axis else ""))


def _at_border(seen: Survey) -> Choice[float]:
    if unlike := _unlike(seen):
        return Choice(
            AT_BORDER, f"the border is unlike the rest ({', '.join(unlike)}) and must be learned as good"
        )
    return Choice(0.0, "borders look like the rest")


def _flips(seen: Survey) -> Choice[tuple[bool, bool]]:
    across, down = (
        next(s for s in seen.symmetry if s.mirror == mirror) for mirror in ("left-right", "top-bottom")
    )
    told = [f"{s.mirror} is given away by {s.feature}" for s in (across, down) if not s.allowed]
    return Choice((across.allowed, down.allowed), "; ".join(told) or "mirrored frames look like good ones")


def _transpose(seen: Survey) -> Choice[bool]:
    found = next(s for s in seen.symmetry if s.mirror == "transposed")
    if found.allowed:
        return Choice(True, "transposed frames look like good ones")
    if found.feature == "none":
        return Choice(False, "frames show one scene, which always lies the same way")
    return Choice(False, f"transposed frames are given away by {found.feature}")


def _score(seen: Survey, scale: float, model: str, masked: bool) -> Choice[ScoreSpec]:
    kind = of_name(model)
    scale = 1.0 if kind.size_px else scale
    wavelength = seen.texture.wavelength_px * scale
    smooth = round(min(max(wavelength / 2, SMOOTH_PX[0]), SMOOTH_PX[1]), 1)
    outline = f"texture repeats every {wavelength:.0f} px, which is no detail of a defect's outline"
    spec = ScoreSpec(map="probability", smooth_px=smooth, statistic="peak", peak_px=PEAK_PX)
    if masked:
        return Choice(spec, f"the highest {PEAK_PX}×{PEAK_PX} pixels, however large the part is; {outline}")
    pixels = math.prod(kind.size_px or (seen.sizes.height * scale, seen.sizes.width * scale))
    ratio = float(f"{min(MOST_TOP, TOP_PX / pixels):.2g}")
    return Choice(
        spec.model_copy(update={"statistic": "top", "top_ratio": ratio}),
        f"the highest {ratio * pixels:.0f} pixels of a frame, in whatever shape: cracks count; {outline}",
    )


def _movement(seen: Survey) -> Choice[Movement]:
    if seen.layout.kind == "aligned":
        return Choice(Movement(trim=0.02, zoom=0.05, turn_deg=2.0), "frames show the same scene")
    if _shows_part(seen):
        return Choice(Movement(trim=0.05, zoom=0.2, turn_deg=4.0), "parts lie and are cut out differently")
    return Choice(Movement(), "the frames' own windows vary enough")


def _shows_part(seen: Survey) -> bool:
    """Whether frames show a part with its edges, not a piece of an endless texture."""
    return bool(_unlike(seen)) or seen.layout.kind == "aligned"


def _directed(seen: Survey) -> bool:
    return seen.texture.coherence > COHERENT and seen.layout.kind != "aligned"


def _unlike(seen: Survey) -> list[str]:
    return [border.side for border in seen.borders if border.unlike >= BORDER_UNLIKE]


def _said(choice: Choice[Any]) -> str:
    plain = _plain(choice.value)
    if isinstance(plain, dict):  # what differs from the usual is enough
        usual = _plain(type(choice.value)())
        changed = {name: value for name, value in plain.items() if value != usual[name]}
        plain = ", ".join(f"{name} {value}" for name, value in changed.items()) or "as usual"
    return f"{plain}: {choice.why}"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value
