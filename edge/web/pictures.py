"""Pictures of verdicts, whole or by tiles, so that a page shows single pixels of a large frame at once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from math import ceil
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread
import cv2
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.errors import EdgeError, MissingInputError
from edge.web.query import BadQueryError, answered, whole

Picture = NDArray[np.uint8]  # (h, w), or (h, w, 3) BGR
Value = TypeVar("Value")

TILE_PX = 512
DEFAULT_SIDE_PX, MAX_SIDE_PX = 1024, 8192
MOST_PICTURE_BYTES = 96 * 2**20  # decoded, all together
MOST_TILE_BYTES = 32 * 2**20  # encoded
AT_A_TIME = 4  # threads for pictures: others are left for probes
REMEMBERED_S = 30.0  # that a picture cannot be had
JPEG_QUALITY = 90
LOSSLESS = frozenset({"map", "classes"})
LAYERS = ("original", "preprocessed", "reconstruction", "map", "classes")
KEPT_BY_BROWSERS = "private, max-age=86400"  # a verdict's pictures never change


class PictureView(Protocol):
    """What is asked of `edge.page.Page`."""

    def picture(self, result_id: str, layer: str) -> Picture: ...


class Recent(Generic[Value]):
    """What was used last, up to so many bytes; safe from any thread."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most, self._size, self._lock = most_bytes, size, threading.Lock()
        self._held: OrderedDict[Hashable, Value] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable) -> Value | None:
        """What is held, or None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Hold it, and let go of what was used longest ago."""
        with self._lock:
            if (old := self._held.pop(key, None)) is not None:
                self.bytes -= self._size(old)
            self._held[key] = value
            self.bytes += self._size(value)
            while self.bytes > self._most and len(self._held) > 1:
                _, gone = self._held.popitem(last=False)
                self.bytes -= self._size(gone)


class Tiles:
    """Cuts and encodes pictures; each is got once, however many of its tiles are asked for at a time."""

    def __init__(self, view: PictureView, clock: Callable[[], float] = time.monotonic) -> None:
        self._view, self._clock = view, clock
        self._levels: Recent[Picture] = Recent(MOST_PICTURE_BYTES, lambda picture: picture.nbytes)
        self._encoded: Recent[bytes] = Recent(MOST_TILE_BYTES, len)
        self._refused: Recent[tuple[float, EdgeError]] = Recent(1000, lambda _: 1)
        self._locks = [threading.Lock() for _ in range(16)]

    def tile(self, result_id: str, layer: str, z: int, x: int, y: int) -> bytes:
        """A tile, encoded; level z is reduced by 2^z.

        Raises:
            MissingInputError: there is no such picture, or nothing of it there.
        """
        key = result_id, layer, z, x, y
        if (known := self._encoded.get(key)) is not None:
            return known
        level = self._level(result_id, layer, z)
        part = level[y * TILE_PX : (y + 1) * TILE_PX, x * TILE_PX : (x + 1) * TILE_PX]
        if not part.size:
            raise MissingInputError(f"the picture has no tile {x}, {y} at level {z}")
        data = encoded(part, layer)
        self._encoded.put(key, data)
        return data

    def whole(self, result_id: str, layer: str, side_px: int) -> bytes:
        """All of a picture, at most so large, encoded."""
        key = result_id, layer, side_px
        if (known := self._encoded.get(key)) is not None:
            return known
        data = encoded(reduced(self._level(result_id, layer, 0), side_px), layer)
        self._encoded.put(key, data)
        return data

    def _level(self, result_id: str, layer: str, z: int) -> Picture:
        key = result_id, layer, z
        with self._locks[hash((result_id, layer)) % len(self._locks)]:
            if (known := self._levels.get(key)) is not None:
                return known
            found = self._picture(result_id, layer) if z == 0 else self._reduced(result_id, layer, z)
            self._levels.put(key, found)
            return found

    def _reduced(self, result_id: str, layer: str, z: int) -> Picture:
        full = self._levels.get((result_id, layer, 0))
        if full is None:
            full = self._picture(result_id, layer)
            self._levels.put((result_id, layer, 0), full)
        height, width = full.shape[:2]
        if z >= levels(width, height):
            raise MissingInputError(f"the picture has no level {z}")
        return reduced(full, ceil(max(width, height) / 2**z))

    def _picture(self, result_id: str, layer: str) -> Picture:
        refused = self._refused.get((result_id, layer))
        if refused is not None and self._clock() < refused[0]:
            raise refused[1]
        try:
            return self._view.picture(result_id, layer)
        except MissingInputError as error:
            self._refused.put((result_id, layer), (self._clock() + REMEMBERED_S, error))
            raise


def levels(width: int, height: int) -> int:
    """How many levels there are, until all of the picture is one tile."""
    return 1 + max(0, ceil(max(width, height) / TILE_PX) - 1).bit_length()


def reduced(picture: Picture, side_px: int) -> Picture:
    """At most so large on its longer side."""
    height, width = picture.shape[:2]
    factor = side_px / max(width, height)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]  # uint8 stays


def encoded(picture: Picture, layer: str) -> bytes:
    """JPEG; PNG where values count."""
    if layer in LOSSLESS:
        return cv2.imencode(".png", picture)[1].tobytes()
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def routes(view: PictureView) -> list[BaseRoute]:
    """…/picture/LAYER and …/tile/LAYER/Z/X/Y of a verdict."""
    tiles = Tiles(view)
    limiter: list[anyio.CapacityLimiter] = []  # belongs to an event loop, which is not there yet

    def picture(request: Request) -> Response:
        side_px = whole(request, "max", DEFAULT_SIDE_PX, MAX_SIDE_PX)
        result_id, layer = _asked(request)
        return _image(request, layer, tiles.whole(result_id, layer, side_px))

    def tile(request: Request) -> Response:
        result_id, layer = _asked(request)
        place = [request.path_params[name] for name in ("z", "x", "y")]
        if any(value > 10**6 for value in place):
            return JSONResponse({"error": "there is no such tile"}, 404)
        return _image(request, layer, tiles.tile(result_id, layer, *place))

    def bounded(
        endpoint: Callable[[Request], Response], *asks: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """Those that wait for a thread take none from others."""

        async def answer(request: Request) -> Response:
            if not limiter:
                limiter.append(anyio.CapacityLimiter(AT_A_TIME))
            return await anyio.to_thread.run_sync(answered(endpoint, *asks), request, limiter=limiter[0])

        return answer

    of_verdict = "/api/v1/verdicts/{result_id}"
    return [
        Route(f"{of_verdict}/picture/{{layer}}", bounded(picture, "max")),
        Route(f"{of_verdict}/tile/{{layer}}/{{z:int}}/{{x:int}}/{{y:int}}", bounded(tile)),
    ]


def _asked(request: Request) -> tuple[str, str]:
    result_id, layer = request.path_params["result_id"], request.path_params["layer"]
    if layer not in LAYERS:
        raise BadQueryError(f"layer: one of {', '.join(LAYERS)}")
    return result_id, layer


def _image(request: Request, layer: str, data: bytes) -> Response:
    tag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
    headers: dict[str, Any] = {"etag": tag, "cache-control": KEPT_BY_BROWSERS}
    if tag in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/png" if layer in LOSSLESS else "image/jpeg", headers=headers)
