import pytest

from edge.judge.parts import ViewResult, is_complete, judge_part, starts_new_round

VIEWS = ("01", "02")


def results(**evaluations: str) -> dict[str, ViewResult]:
    return {v[1:]: ViewResult(v[1:], "id", e, 0.5) for v, e in evaluations.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "evaluation", "reasons"),
    [
        (results(v01="OK", v02="OK"), "OK", ()),
        (results(v01="OK", v02="NotOK"), "NotOK", ("view_not_ok",)),
        (results(v01="OK", v02="NotDecidable"), "NotDecidable", ("view_not_decidable",)),
        (results(v01="OK"), "NotDecidable", ("views_missing",)),
        (results(v01="NotOK"), "NotOK", ("view_not_ok", "views_missing")),
        ({}, "NotDecidable", ("views_missing",)),
    ],
)
def test_a_part_is_ok_only_when_all_views_are_there_and_ok(seen, evaluation, reasons) -> None:
    judged = judge_part(VIEWS, seen)
    assert (judged.evaluation, judged.reasons) == (evaluation, reasons)
    assert judged.is_partial == (not is_complete(VIEWS, seen))


def test_a_late_view_completes_and_a_repeated_one_begins_anew() -> None:
    seen = results(v01="OK")
    assert not starts_new_round(False, False, "01", seen)
    assert not starts_new_round(True, True, "02", seen)
    assert starts_new_round(True, True, "01", seen)
    assert starts_new_round(True, False, "02", results(v01="OK", v02="OK"))
