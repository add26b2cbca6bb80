"""A short run of the fuzzer on every change, and proof that it would notice a broken promise."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.decode import decode
from edge.errors import EdgeError
from edge.intake.naming import Naming, compile_naming, printable
from edge.publish.payload import encode, frame_payload
from edge.publish.schema import verdict_schema
from edge.types import Frame, Identity, ImageInfo, Judgement, Picture
from tests.torture import mutations
from tests.torture.fuzz import LIMITS, REASONS, Execution, Fuzzer, table
from tests.torture.mutations import Mutated, mutate
from tests.torture.seeds import Seed, all_seeds, built

VALIDATOR = Draft202012Validator(verdict_schema())
SEEDS = {seed.name: seed for seed in built()}


def decoded_or_reason(data: bytes, name: str) -> tuple[list[Picture], str]:
    """(pictures, "") or ([], "reason: message")."""
    try:
        return decode(data, name, LIMITS), ""
    except EdgeError as error:
        return [], f"{error.reason}: {error.message}"


def named_or_reason(
    naming: Naming, path: str, tags: Mapping[str, str], page: int, pages: int
) -> Identity | str:
    try:
        return naming(path, tags, page, pages)
    except EdgeError as error:
        return error.reason


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    made = Fuzzer(built(), seed=1, workers=1, keep=tmp_path_factory.mktemp("kept"))
    yield made
    made.close()


def test_damaged_files_become_pictures_or_reasons_and_cost_no_worker(fuzzer: Fuzzer) -> None:
    fuzzer.run(iter(range(400)), time.monotonic() + 120)
    tally = fuzzer.tally
    assert tally.broken == []
    assert tally.executions == 400
    assert tally.restarts == 0
    refused = [outcome for _, outcome in tally.outcomes if not outcome.startswith("ok")]
    assert set(refused) <= REASONS
    assert {"corrupt", "truncated", "unreadable"} <= set(refused)
    assert {kind for kind, _ in tally.outcomes} == {"png", "jpeg", "bmp", "tiff", "dicom"}
    assert table(tally)[-1].endswith("| 400 |")


def test_an_execution_can_be_repeated(fuzzer: Fuzzer, tmp_path: Path) -> None:
    other = Fuzzer(built(), seed=1, workers=1, keep=tmp_path)
    try:
        assert all(other.execution(number) == fuzzer.execution(number) for number in range(0, 5000, 97))
    finally:
        other.close()


@pytest.mark.parametrize(
    ("plane", "in_place", "said"),
    [
        (np.full((37, 52), np.nan, np.float32), False, "outside 0..1"),
        (np.full((37, 52), 1.01, np.float32), False, "outside 0..1"),
        (np.zeros((37, 52), np.float32), True, "came out as another picture"),
        (np.zeros((3000, 3000), np.float32), False, "more pixels than allowed"),
    ],
)
def test_a_broken_promise_is_noticed_and_its_file_kept(
    tmp_path: Path, plane: np.ndarray, in_place: bool, said: str
) -> None:
    fuzzer = Fuzzer(built(), seed=1, workers=1, keep=tmp_path / "kept")
    try:
        execution = Execution(7, SEEDS["png-grey8"], Mutated(b"damaged", "flip", in_place))
        fuzzer._decoded(execution, [Frame(ImageInfo("a", ""), plane)])
        assert said in fuzzer.tally.broken[0]
    finally:
        fuzzer.close()
    about = json.loads(next((tmp_path / "kept").glob("*.json")).read_text())
    assert (about["execution"], about["mutations"]) == (7, "flip")
    assert next((tmp_path / "kept").glob("*.bin")).read_bytes() == b"damaged"


@pytest.mark.parametrize("name", ["png-grey8", "tiff-grey16", "dicom-ExplicitVRLittleEndian_u8_MONOCHROME2",
                                  "jpeg-grey8", "bmp-grey8"])  # fmt: skip
def test_every_way_to_damage_a_file_does(name: str) -> None:
    import random

    seed, other = SEEDS[name], SEEDS["tiff-lzw"]
    ways = [*mutations.BLIND, *mutations.KNOWING[mutations.kind_of(seed.data)]]
    for how, mutation in ways:
        damaged = {
            mutations.splice(seed.data, other.data, random.Random(n))
            if how == "splice"
            else mutation(seed.data, random.Random(n))
            for n in range(40)
        }
        assert len(damaged - {seed.data}) >= 10, how


def test_mutations_that_know_a_format_get_behind_its_checksums() -> None:
    """Else the decoders behind them are never reached."""
    import random

    decoded = 0
    for number in range(300):
        data = mutations.rebuild_png(SEEDS["png-rgb8"].data, random.Random(number))
        found, said = decoded_or_reason(data, "a.png")
        assert "wrong checksum" not in said
        decoded += len(found)
    assert decoded > 30


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.sampled_from(all_seeds()), other=st.sampled_from(all_seeds()), rng=st.randoms())
def test_damaged_files_of_every_format_give_pictures_or_an_edge_error(
    seed: Seed, other: Seed, rng: object
) -> None:
    damaged = mutate(seed.data, other.data, rng)  # type: ignore[arg-type]
    pictures, said = decoded_or_reason(damaged.data, seed.file_name)
    if not pictures:
        assert said.partition(":")[0] in REASONS
        return
    assert sum(picture.pixels.shape[0] * picture.pixels.shape[1] for picture in pictures) <= LIMITS.max_pixels
    if seed.name.startswith("png") and damaged.in_place:
        for picture, whole in zip(pictures, decode(seed.data, "a.png", LIMITS), strict=True):
            assert np.array_equal(picture.pixels, whole.pixels)


# names

NAMES = st.one_of(
    st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
    st.text(min_size=1, max_size=60).map(lambda name: name.encode("utf-8", "replace").replace(b"/", b"_")),
    st.sampled_from([b"\n.png", b"a\tb_01.png", b"\x1b[31m_1.png", b"a" * 251 + b".png", b"\xff\xfe_2.png",
                     "é_3.png".encode(), b"'; DROP TABLE files;--_1.png", b"..png", b"{part}_{view}.png"]),
)  # fmt: skip


@given(folder=NAMES, name=NAMES, rule=st.sampled_from(["{batch}/{part}_{view}", "{part}", None]))
def test_every_name_that_a_file_can_have_gives_a_valid_payload(
    folder: bytes, name: bytes, rule: str | None
) -> None:
    path = f"{folder.decode('utf-8', 'surrogateescape')}/{name.decode('utf-8', 'surrogateescape')}"
    identity = named_or_reason(compile_naming(rule), path, {}, 0, 1)
    if isinstance(identity, str):
        assert identity == "name_unmatched"
        identity = Identity()
    body = encode(
        frame_payload(
            result_id="01JD0000000000000000000000", created_unix_s=1.0, station="st", recipe="r",
            identity=identity, image=ImageInfo(printable(path), ""),
            judgement=Judgement("NotDecidable", ("truncated",)),
        )
    )  # fmt: skip
    payload = json.loads(body)
    VALIDATOR.validate(payload)
    assert payload["image"]["path"] == printable(path)
    assert b"\n" not in body  # a line is a verdict


@given(
    tags=st.dictionaries(st.sampled_from(["PatientID", "ViewPosition"]), st.text()), page=st.integers(0, 99)
)
def test_every_text_that_a_tag_can_have_gives_a_valid_payload(tags: dict[str, str], page: int) -> None:
    rule = compile_naming(dicom={"part": "PatientID", "view": "ViewPosition"})
    identity = named_or_reason(rule, "a.dcm", tags, page, 100)
    if isinstance(identity, str):
        assert identity == "name_unmatched"
        return
    judgement = Judgement("NotDecidable", ("truncated",))
    payload = frame_payload(
        result_id="01JD0000000000000000000000", created_unix_s=1.0, station="st", recipe="r",
        identity=identity, image=ImageInfo("a.dcm", ""), judgement=judgement,
    )  # fmt: skip
    VALIDATOR.validate(json.loads(encode(payload)))


def test_executions_differ() -> None:
    pairs = itertools.pairwise(range(50))
    fuzzer = Fuzzer(built(), seed=3, workers=1, keep=Path("unused"))
    try:
        assert sum(fuzzer.execution(a) == fuzzer.execution(b) for a, b in pairs) == 0
    finally:
        fuzzer.close()
