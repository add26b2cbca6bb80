"""Plans: the shares asked for, reproducible frames, names."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.simulate.shots import Mix, frame_path, plan


def test_a_plan_goes_part_after_part_through_all_views() -> None:
    shots = plan(13, seed=1, batch="B7")
    assert [shot.path for shot in shots[:2]] == ["B7/P000001_01.png", "B7/P000001_02.png"]
    assert Counter(shot.part for shot in shots) == {"P000001": 6, "P000002": 6, "P000003": 1}


@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]))
def test_the_share_of_defective_parts_holds_exactly(seed: int, share: float) -> None:
    parts = defaultdict(list)
    for shot in plan(120, seed=seed, mix=Mix(share)):
        parts[shot.part].append(shot.label)
    assert sum("defect" in labels for labels in parts.values()) == round(20 * share)
    assert all(labels.count("defect") <= 3 for labels in parts.values())


@given(seed=st.integers(0, 2**32))
def test_the_shares_of_slow_and_truncated_frames_hold(seed: int) -> None:
    styles = Counter(shot.style for shot in plan(200, seed=seed, mix=Mix(0, 0.1, 0.05)))
    assert styles["truncated"] == 10
    assert 10 <= styles["slow"] <= 20  # a frame due to be both is truncated
    assert min(styles["atomic"], styles["direct"]) > 0


def test_the_same_seed_takes_the_same_bytes_every_time() -> None:
    first, again = (plan(3, seed=4, mix=Mix(1.0))[2] for _ in range(2))
    assert first.take().data == first.take().data == again.take().data
    assert plan(3, seed=5, mix=Mix(1.0))[2].take().data != first.take().data


def test_a_defective_frame_has_a_mask_and_a_good_one_an_empty_one() -> None:
    for shot in plan(12, seed=2, mix=Mix(1.0)):
        mask = shot.take().mask
        assert mask is not None
        assert mask.any() == (shot.label == "defect") == bool(shot.defect)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("{batch}/{part}_{view}", "B/P_1.png"),
        ("{part}_{view}.png", "P_1.png"),
        ("a/b/{stem}", "a/b/S.png"),
        ("{part}.{view}", "P.1.png"),
    ],
)
def test_names_follow_the_template(template: str, path: str) -> None:
    assert frame_path(template, {"batch": "B", "part": "P", "view": "1", "stem": "S"}, ".png") == path


@pytest.mark.parametrize("template", ["{angle}", "../{part}", "/tmp/{part}", "{view}", "x/{up}"])
def test_names_that_lead_nowhere_are_refused(template: str) -> None:
    with pytest.raises(UsageError):
        frame_path(template, {"batch": "B", "part": "P", "view": "", "up": "../.."}, ".png")


def test_a_part_name_cannot_leave_the_folder() -> None:
    with pytest.raises(UsageError, match="outside"):
        frame_path("{batch}/{part}", {"batch": "B", "part": "../../etc/passwd"}, ".png")


@pytest.mark.parametrize("wrong", [Mix, lambda: plan(1, seed=-1), lambda: plan(1, seed=0, views=(1, 9))])
def test_nonsense_is_refused(wrong: object) -> None:
    if wrong is Mix:
        with pytest.raises(UsageError):
            Mix(1.2)
        with pytest.raises(UsageError):
            Mix(0, 0.6, 0.6)
    else:
        with pytest.raises(UsageError):
            wrong()  # type: ignore[operator]
