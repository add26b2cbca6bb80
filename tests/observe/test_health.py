from __future__ import annotations

from edge.observe.health import Health


def test_says_nothing_means_not_ready_but_alive() -> None:
    health = Health()
    assert health.ready() == (False, {"start": "starting"})
    assert health.healthy(0.0) == (True, {})


def test_ready_when_every_condition_holds() -> None:
    health = Health()
    health.set("engine:bracket", False, "warming up")
    health.set("source:ct", True)
    assert health.ready() == (False, {"engine:bracket": "warming up"})
    health.set("engine:bracket", True)
    assert health.ready() == (True, {})


def test_condition_without_a_reason_still_shows() -> None:
    health = Health()
    health.set("source:ct", False)
    assert health.ready() == (False, {"source:ct": "not yet"})


def test_condition_that_no_longer_matters_is_dropped() -> None:
    health = Health()
    health.set("source:ct", True)
    health.set("source:old", False, "gone")
    health.unset("source:old")
    assert health.ready() == (True, {})


def test_loop_that_falls_silent_is_not_healthy() -> None:
    health = Health()
    health.expect("intake", allowed_s=10.0, now_s=100.0)
    assert health.healthy(110.0) == (True, {})
    ok, silent = health.healthy(110.5)
    assert not ok
    assert silent == {"intake": "silent for 10.5 s, 10 s allowed"}
    health.beat("intake", 110.5)
    assert health.healthy(120.0) == (True, {})


def test_loop_that_ended_as_it_should_is_not_missed() -> None:
    health = Health()
    health.expect("intake", allowed_s=1.0, now_s=0.0)
    health.forget("intake")
    health.beat("intake", 5.0)  # a late beat does not bring it back
    assert health.healthy(100.0) == (True, {})
