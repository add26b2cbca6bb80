"""Filters in a query string."""

from __future__ import annotations

import pytest

from edge.types import VerdictFilter
from tests.web.sites import Site


def test_a_query_becomes_a_filter(site: Site) -> None:
    answer = site.client.get(
        "/api/v1/verdicts?limit=3&type=frame&recipe=r&view=01&batch=B&part=P&evaluation=NotOK&reason=x&"
        "since=2026-11-20T10:15:30Z&until=2026-11-20T12:15:30%2B02:00&reviewed=no&q=t&before=R2&after=R1"
    )
    assert len(answer.json()) == 3
    assert site.verdicts.asked == [
        VerdictFilter("frame", "r", "01", "B", "P", "NotOK", "x", 1795169730.0, 1795169730.0, "no", "t", "R2",
                      "R1")
    ]  # fmt: skip
    site.client.get("/api/v1/verdicts?recipe=&view=&evaluation=&q=")
    assert site.verdicts.asked[-1] == VerdictFilter()


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("type=picture", "type"), ("evaluation=ok", "evaluation"), ("reviewed=maybe", "reviewed"),
        ("since=yesterday", "since"), ("until=9" + "9" * 30, "until"), ("since=2026-13-01", "since"),
        ("q=" + "a" * 501, "q"), ("recipe=a%00b", "recipe"), ("limit=0", "limit"), ("limit=1e3", "limit"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_refused_and_named(site: Site, query: str, name: str) -> None:
    answer = site.client.get(f"/api/v1/verdicts?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{name}: ")
    assert site.verdicts.asked == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("verdicts?verdict=NotOK", "verdict: not known; known here: limit, type, "),
        ("verdicts?evalution=NotOK", "evalution: not known; did you mean evaluation?"),
        ("verdicts?recipe=r&", None),
        ("facets?recipe=r", "recipe: not known; known here: nothing"),
        ("spc?recipes=r", "recipes: not known; did you mean recipe?"),
        ("spc.svg?veiw=01", "veiw: not known; did you mean view?"),
    ],
)
def test_a_misspelt_filter_is_refused_as_it_would_find_everything(
    site: Site, path: str, said: str | None
) -> None:
    answer = site.client.get(f"/api/v1/{path}")
    assert answer.status_code == (200 if said is None else 400)
    assert said is None or answer.json()["error"].startswith(said)


def test_bytes_that_are_no_utf8_do_no_harm(site: Site) -> None:
    assert site.client.get("/api/v1/verdicts?q=%ff%fe").status_code in (200, 400)


def test_facets_are_passed_on(site: Site) -> None:
    assert site.client.get("/api/v1/facets").json() == {"recipes": ["bracket"]}
