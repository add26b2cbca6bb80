"""An API like the daemon's, over made-up verdicts and real pictures, behind the real application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from edge.observe.health import Health
from edge.web.app import create_app
from edge.web.server import HttpServer

WIDTH, HEIGHT = 4248, 2832  # 12 megapixels
PLANE_SCALE = 3  # the plane that is judged is a third of the frame
TILE_PX = 512
DEFECT = [3000, 1800, 90, 60]  # x, y, w, h in pixels of the frame
VIEWS = ("01", "02", "03")
HOSTILE = "<img src=x onerror=window.hacked=1>\"'&"
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
SEED = 7


def frame() -> NDArray[np.uint8]:
    """A part under light from one side, its texture, and one dark spot."""
    rng = np.random.default_rng(SEED)
    coarse = rng.normal(0, 12, (HEIGHT // 8, WIDTH // 8)).astype(np.float32)
    picture = np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)
    picture += np.linspace(90, 170, WIDTH, dtype=np.float32)[None, :]
    picture += rng.normal(0, 6, (HEIGHT, WIDTH)).astype(np.float32)
    x, y, w, h = DEFECT
    cv2.ellipse(picture, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, 20, -1)
    return np.clip(picture, 0, 255).astype(np.uint8)


def anomaly_map() -> NDArray[np.uint8]:
    """Low everywhere, far above the threshold (128) at the defect."""
    plane = np.full((HEIGHT // PLANE_SCALE, WIDTH // PLANE_SCALE), 20, np.uint8)
    x, y, w, h = (side // PLANE_SCALE for side in DEFECT)
    cv2.ellipse(plane, (x + w // 2, y + h // 2), (w, h), 0, 0, 360, 220, -1)
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), 5), np.uint8)


def verdict(number: int, **other: Any) -> dict[str, Any]:
    """A frame's verdict; every seventh is not OK, every thirteenth cannot be decided."""
    evaluation = "NotOK" if number % 7 == 3 else "NotDecidable" if number % 13 == 5 else "OK"
    score = (
        None
        if evaluation == "NotDecidable"
        else 1.84
        if evaluation == "NotOK"
        else 0.4 + 0.05 * (number % 10)
    )
    made = START + timedelta(seconds=10 * number)
    return {
        "resultId": f"F{number:04}",
        "resultType": "frame",
        "resultEvaluation": evaluation,
        "creationTime": made.isoformat().replace("+00:00", "Z"),
        "station": "ct-1",
        "partId": f"P{number // 3:03}",
        "batchId": f"B{number // 60}",
        "view": VIEWS[number % 3],
        "recipeId": "bracket",
        "score": score,
        "scoreRaw": score and score / 80,
        "thresholdRaw": 0.0125,
        "reasons": {
            "NotOK": ["score_above_threshold"],
            "NotDecidable": ["brightness_outside_calibration"],
            "OK": [],
        }[evaluation],
        "statistics": {"mse": 0.0031, "max": 0.91},
        "defects": [
            {"class": "anomaly", "area_px": 4200, "area_ratio": 0.0003, "bbox": DEFECT, "score": 1.84}
        ]
        if evaluation == "NotOK"
        else [],
        "image": {
            "path": f"B{number // 60}/P{number // 3:03}_{VIEWS[number % 3]}.png",
            "sha256": "ab" * 32,
            "width": WIDTH,
            "height": HEIGHT,
            "bits": 8,
        },
        "model": {
            "bundle": "bracket",
            "sha256": "cd" * 32,
            "runtime": "openvino",
            "precision": "int8",
            "calibration_sha256": "ef" * 32,
        },
        "processingTimes": {"decode_s": 0.08, "infer_s": 0.12, "total_s": 0.31},
    } | other


def part_verdict(part: str, frames: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    """What a part's verdict says of its frames."""
    views = [{key: one[key] for key in ("view", "resultId", "resultEvaluation", "score")} for one in frames]
    return {
        "resultId": f"W{part}",
        "resultType": "part",
        "resultEvaluation": "NotDecidable" if missing else "OK",
        "creationTime": frames[-1]["creationTime"],
        "station": "ct-1",
        "partId": part,
        "batchId": frames[0]["batchId"],
        "recipeId": "bracket",
        "reasons": ["views_missing"] if missing else [],
        "isPartial": bool(missing),
        "views": views,
        "missingViews": missing,
    }


class FakeDaemon:
    """Serves the page and a made-up daemon; `port` stays, so that it may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verdicts = [verdict(number) for number in range(119)]
        self.verdicts.append(part_verdict("P039", self.verdicts[117:119], ["03"]))
        self.verdicts.append(
            verdict(200, partId=HOSTILE, reasons=[HOSTILE], resultEvaluation="NotDecidable", score=None)
        )
        self.reviews: list[dict[str, Any]] = []
        self.refuse_reviews = ""
        self.no_original = False  # the scanner's file was moved away
        self.gone: set[str] = set()  # paths that this daemon does not offer
        self.busy: dict[str, int] = {}  # paths: how often they are refused before they are answered
        self.listeners: set[asyncio.Queue[bytes]] = set()
        self.asked: list[str] = []
        self.explorer = explorer()
        self.pictures = {"original": frame(), "map": anomaly_map()}
        small = (WIDTH // PLANE_SCALE, HEIGHT // PLANE_SCALE)
        plane = cv2.resize(self.pictures["original"], small, interpolation=cv2.INTER_AREA)
        self.pictures["preprocessed"] = np.asarray(plane, np.uint8)
        self.pictures["reconstruction"] = np.asarray(cv2.GaussianBlur(plane, (0, 0), 4), np.uint8)
        self.port = 0
        self.start()

    def start(self) -> None:
        health = Health()
        health.set("engine", True)
        app = create_app(
            registry=CollectorRegistry(),
            health=health,
            status=self.status,
            evidence_root=self.folder,
            more=self.routes(),
        )
        self.server = HttpServer(app, "127.0.0.1", self.port)
        self.server.start()
        self.port = self.server.address[1]

    def stop(self) -> None:
        for listener in tuple(self.listeners):
            self.loop.call_soon_threadsafe(listener.put_nowait, b"")
        self.server.stop(2.0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arrives(self, one: dict[str, Any]) -> None:
        """A verdict comes in; whoever listens hears of it."""
        self.verdicts.append(one)
        keys = ("resultId", "resultType", "resultEvaluation", "recipeId", "batchId", "partId", "view")
        self.tell("verdict", {key: one.get(key) for key in keys})

    def tell(self, event: str, data: dict[str, Any]) -> None:
        message = f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()
        for listener in tuple(self.listeners):
            self.loop.call_soon_threadsafe(listener.put_nowait, message)

    def status(self) -> dict[str, Any]:
        return {
            "version": "1",
            "station": "ct-1",
            "startedAt": "2026-11-20T08:00:00Z",
            "ready": True,
            "notReady": {},
            "verdicts": {"frame": {"OK": 90, "NotOK": 20}, "part": {"OK": 30}},
            "backlog": {"ct": {"waiting": 2, "unavailable": None}},
            "outbox": {"mqtt": {"connected": True, "depth": 1, "lastError": None}},
            "recipes": {
                "bracket": {
                    "bundle": "bracket",
                    "runtime": "openvino",
                    "precision": "int8",
                    "bundleSha256": "cd" * 32,
                    "views": list(VIEWS),
                }
            },
        }

    def routes(self) -> list[BaseRoute]:
        def offered(path: str, endpoint: Any, **more: Any) -> Route:
            async def answer(request: Request) -> Response:
                self.asked.append(request.url.path + "?" + request.url.query)
                if self.busy.get(request.url.path, 0) > 0:
                    self.busy[request.url.path] -= 1
                    return JSONResponse({"error": "the decoders are busy"}, 503)
                if any(request.url.path.startswith(gone) for gone in self.gone):
                    return JSONResponse({"error": "not offered"}, 404)
                answered = endpoint(request)
                found: Response = await answered if asyncio.iscoroutine(answered) else answered
                return found

            return Route(path, answer, **more)

        base = "/api/v1/"
        return [
            offered(base + "verdicts", self.list),
            offered(base + "verdicts/{id}", self.detail),
            offered(base + "verdicts/{id}/picture/{layer}", self.picture),
            offered(base + "verdicts/{id}/tile/{layer}/{z:int}/{x:int}/{y:int}", self.tile),
            offered(
                base + "facets",
                lambda _: JSONResponse(
                    {
                        "recipes": ["bracket"],
                        "views": {"bracket": list(VIEWS)},
                        "batches": sorted({one["batchId"] for one in self.verdicts}, reverse=True),
                        "reasons": ["score_above_threshold", "brightness_outside_calibration"],
                    }
                ),
            ),
            offered(base + "events", self.events),
            offered(base + "reviews", self.review, methods=["POST"]),
            offered(base + "reviews/proposal", lambda _: JSONResponse({"why": "Too few reviews."})),
            offered(base + "scores", self.scores),
            offered(base + "throughput", self.throughput),
            offered(base + "explorer", lambda _: JSONResponse(self.explorer)),
            offered(
                base + "health",
                lambda _: JSONResponse(
                    {
                        "ready": True,
                        "checks": [
                            {
                                "name": "disk",
                                "state": "warning",
                                "what": "3 GB left",
                                "fix": "lower evidence.max_bytes",
                            },
                            {"name": "engine", "state": "ok", "what": "warm", "fix": ""},
                        ],
                    }
                ),
            ),
            offered(
                base + "replays",
                lambda _: JSONResponse(
                    {
                        "replays": [
                            {
                                "id": "r1",
                                "recipe": "bracket",
                                "createdAt": "2026-11-20T09:00:00Z",
                                "state": "done",
                                "frames": 120,
                                "flips": 3,
                                "error": None,
                            }
                        ]
                    }
                ),
            ),
        ]

    def list(self, request: Request) -> Response:
        query = request.query_params
        found = list(reversed(self.verdicts))
        for name, key in (
            ("type", "resultType"),
            ("recipe", "recipeId"),
            ("view", "view"),
            ("batch", "batchId"),
            ("part", "partId"),
            ("evaluation", "resultEvaluation"),
        ):
            if name in query:
                found = [one for one in found if one.get(key) == query[name]]
        if "before" in query:
            ids = [one["resultId"] for one in found]
            found = found[ids.index(query["before"]) + 1 :]
        return JSONResponse(
            [one | {"review": self.latest(one["resultId"])} for one in found[: int(query.get("limit", 50))]]
        )

    def latest(self, result_id: str) -> dict[str, Any] | None:
        return next((one for one in reversed(self.reviews) if one["resultId"] == result_id), None)

    def detail(self, request: Request) -> Response:
        one = next((one for one in self.verdicts if one["resultId"] == request.path_params["id"]), None)
        if one is None:
            return JSONResponse({"error": "no such verdict"}, 404)
        frames = [
            other
            for other in self.verdicts
            if other.get("partId") == one["partId"] and other["resultType"] == "frame"
        ]
        views = [{key: f[key] for key in ("view", "resultId", "resultEvaluation", "score")} for f in frames]
        return JSONResponse(
            {
                "verdict": one,
                "reviews": [r for r in self.reviews if r["resultId"] == one["resultId"]],
                "part": {
                    "partId": one["partId"],
                    "batchId": one["batchId"],
                    "resultId": None,
                    "views": views,
                    "missingViews": [],
                },
                "limits": {
                    "threshold": 0.0125,
                    "basis": "conformal",
                    "falseRejectBound": 0.01,
                    "frames": 100,
                },
                "pictures": {
                    layer: {
                        "width": None if (gone := self.no_original and layer == "original") else p.shape[1],
                        "height": None if gone else p.shape[0],
                        "levels": None if gone else 4 if layer == "original" else 3,
                        "why": "the file is gone" if gone else None,
                        "aligned": "frame" if layer == "original" else "plane",
                    }
                    for layer, p in self.pictures.items()
                },
                "planeToFrame": [[PLANE_SCALE, 0, 0], [0, PLANE_SCALE, 0], [0, 0, 1]],
                "isScaled": False,
            }
        )

    def picture(self, request: Request) -> Response:
        pixels = self.pictures[request.path_params["layer"]]
        scale = min(1.0, int(request.query_params.get("max", 1024)) / max(pixels.shape))
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        return png(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))

    def tile(self, request: Request) -> Response:
        asked = request.path_params
        pixels, z = self.pictures[asked["layer"]], 2 ** asked["z"]
        step = TILE_PX * z
        cut = pixels[asked["y"] * step : (asked["y"] + 1) * step, asked["x"] * step : (asked["x"] + 1) * step]
        if cut.size == 0:
            return JSONResponse({"error": "no such tile"}, 404)
        size = (-(-cut.shape[1] // z), -(-cut.shape[0] // z))
        return png(np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8))

    async def review(self, request: Request) -> Response:
        if self.refuse_reviews:
            return JSONResponse({"error": self.refuse_reviews}, 503)
        sent = await request.json()
        judged = next(one for one in self.verdicts if one["resultId"] == sent["resultId"])["resultEvaluation"]
        stored = sent | {
            "reviewId": f"V{len(self.reviews)}",
            "agrees": sent["evaluation"] == judged,
            "createdAt": "2026-11-20T09:30:00Z",
        }
        self.reviews.append(stored)
        self.tell("review", stored)
        return JSONResponse(stored, 201)

    def scores(self, request: Request) -> Response:
        mine = [one for one in self.verdicts if one.get("view") == request.query_params.get("view")]
        points = [
            {
                "time": one["creationTime"],
                "score": one["score"],
                "evaluation": one["resultEvaluation"],
                "resultId": one["resultId"],
            }
            for one in mine
        ]
        return JSONResponse({"points": points, "drift": None})

    def throughput(self, request: Request) -> Response:
        buckets = [
            {
                "time": (START + timedelta(minutes=n)).isoformat(),
                "OK": 50 + n % 7,
                "NotOK": n % 3,
                "NotDecidable": 0,
                "latencyP50_s": 0.3,
                "latencyP99_s": 0.7,
            }
            for n in range(60)
        ]
        return JSONResponse({"stepS": 60, "buckets": buckets})

    def events(self, request: Request) -> Response:
        self.loop = asyncio.get_running_loop()
        listener: asyncio.Queue[bytes] = asyncio.Queue()

        async def stream() -> AsyncIterator[bytes]:
            self.listeners.add(listener)
            try:
                yield b": hello\n\n"
                while message := await listener.get():
                    yield message
            finally:
                self.listeners.discard(listener)

        return StreamingResponse(stream(), media_type="text/event-stream")


def png(pixels: NDArray[np.uint8]) -> Response:
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return Response(data.tobytes(), media_type="image/png", headers={"cache-control": "max-age=3600"})


def explorer() -> dict[str, Any]:
    """Calibration, and stored frames of which people reviewed some."""
    rng = np.random.default_rng(SEED)
    good, bad, other = rng.gamma(9, 0.06, 80), rng.gamma(12, 0.13, 40), rng.gamma(9, 0.065, 200)
    frames = [
        {
            "resultId": f"E{n}",
            "score": round(float(score), 4),
            "evaluation": "NotOK" if score > 1 else "OK",
            "truth": truth,
        }
        for n, (score, truth) in enumerate(
            [*((s, "OK") for s in good), *((s, "NotOK") for s in bad), *((s, None) for s in other)]
        )
    ]
    return {
        "view": "01",
        "thresholdRaw": 0.0125,
        "basis": "conformal",
        "falseRejectBound": 0.01,
        "calibration": [round(float(s), 4) for s in rng.gamma(9, 0.055, 120)],
        "frames": frames,
    }


def ready(url: str) -> bool:
    """Whether it answers."""
    return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
