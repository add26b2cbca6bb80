"""edge doctor on a site: sources, the service's user, engines; and the broker, a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.config import Mqtt, Settings, Source, Tls, load
from edge.doctor import site
from edge.doctor.agreement import check_agreement
from edge.doctor.broker import check_broker
from edge.doctor.command import examine
from edge.doctor.finding import Finding
from tests.brokers import Mosquitto, free_port, require_mosquitto
from tests.publish.certificates import DAY, Authority
from tests.publish.rigs import Subscriber
from tests.sites import make_recipe, write_config

STATION = "st"


def said(found: Iterator[Finding]) -> dict[str, Finding]:
    findings = list(found)
    for finding in findings:
        assert bool(finding.fix) == (finding.level != "ok"), finding
    return {finding.topic: finding for finding in findings}


def levels(found: Iterator[Finding]) -> dict[str, str]:
    return {topic: finding.level for topic, finding in said(found).items()}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("site")
    make_recipe(folder)
    return load(write_config(folder, 1883, 9470))


def test_a_readable_source_says_what_it_lies_on(settings: Settings) -> None:
    (finding,) = said(site.check_sources(settings)).values()
    assert finding.level == "ok"
    assert "readable" in finding.says


def test_a_source_on_an_unmounted_mount_is_a_fault(settings: Settings, tmp_path: Path) -> None:
    source = settings.source[0].model_copy(update={"mount": tmp_path})
    changed = settings.model_copy(update={"source": (source,)})
    (finding,) = said(site.check_sources(changed)).values()
    assert finding.level == "fault"
    assert "nothing is mounted" in finding.says


@pytest.mark.parametrize(("watch", "says"), [("native", "watched by events"), ("auto", "mount is not set")])
def test_a_network_mount_wants_polling_and_its_mount_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, watch: str, says: str
) -> None:
    monkeypatch.setattr(site, "is_network_mount", lambda _: True)
    source: Source = settings.source[0].model_copy(update={"watch": watch})
    (finding,) = said(site.check_sources(settings.model_copy(update={"source": (source,)}))).values()
    assert finding.level == "warning"
    assert says in finding.says


def test_more_folders_than_may_be_watched_are_said(settings: Settings, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "frames" / str(number)).mkdir(parents=True)
    limit = tmp_path / "proc/sys/fs/inotify/max_user_watches"
    limit.parent.mkdir(parents=True)
    limit.write_text("3\n")
    source = settings.source[0].model_copy(update={"directory": tmp_path / "frames"})
    (finding,) = said(
        site.check_sources(settings.model_copy(update={"source": (source,)}), tmp_path)
    ).values()
    assert finding.level == "warning"
    assert "4 folders" in finding.says


def test_what_the_service_cannot_reach_is_said_where_its_unit_is_installed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(site.check_service_user(settings, tmp_path)) == {}
    unit = tmp_path / "etc/systemd/system/edge.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    finding = said(site.check_service_user(settings, tmp_path))["service user"]
    assert finding.level == "fault"  # PrivateTmp hides /tmp, where tests have their folders
    monkeypatch.setattr(site, "HIDDEN", ())
    closed = tmp_path / "closed"
    (closed / "frames").mkdir(parents=True)
    closed.chmod(0o750)
    source = settings.source[0].model_copy(update={"directory": closed / "frames"})
    findings = list(site.check_service_user(settings.model_copy(update={"source": (source,)}), tmp_path))
    assert findings[0].level == "warning"
    assert "is open to its owner and group only" in findings[0].says


def test_every_engine_gives_its_golden_answers_and_says_how_well(settings: Settings) -> None:
    finding = said(check_agreement(settings))["engine blur"]
    assert finding.level == "ok"
    assert "golden pair within" in finding.says


# The broker


def test_a_broker_of_sparkplug_alone_is_looked_at_and_one_that_both_use_once(tmp_path: Path) -> None:
    def asked(text: str) -> int:
        file = tmp_path / "config.toml"
        file.write_text(f"schema_version = 1\n{text}")
        found, _ = examine(file)
        return [finding.topic for finding in found].count("broker")

    port, other = free_port(), free_port()
    assert asked("[mqtt]\nenabled = false\n") == 0
    assert asked(f"[mqtt]\nenabled = false\n[sparkplug]\nenabled = true\nport = {port}\n") == 1
    assert asked(f"[mqtt]\nport = {port}\n[sparkplug]\nenabled = true\n") == 1
    assert asked(f"[mqtt]\nport = {port}\n[sparkplug]\nenabled = true\nport = {other}\n") == 2


def test_nobody_at_the_port_is_a_fault() -> None:
    assert levels(check_broker(Mqtt(port=free_port()), STATION, {})) == {"broker": "fault"}


@pytest.mark.mosquitto
class TestMosquitto:
    """Mosquitto with what plants give it."""

    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        require_mosquitto()

    @pytest.fixture
    def started(self) -> Iterator[list[Mosquitto]]:
        brokers: list[Mosquitto] = []
        yield brokers
        for broker in brokers:
            broker.stop()

    def test_one_that_allows_all_is_good_and_hears_nothing_but_the_test(
        self, tmp_path: Path, started: list[Mosquitto]
    ) -> None:
        broker = Mosquitto(tmp_path / "broker").start()
        started.append(broker)
        watcher = Subscriber(broker.port)
        try:
            found = levels(check_broker(Mqtt(port=broker.port, requests=True), STATION, {}))
        finally:
            watcher.close()
        assert found == {"broker": "ok", "broker login": "ok", "broker ACL": "ok"}
        assert {message.topic for message in watcher.messages} <= {f"edge/{STATION}/response/doctor"}

    def test_a_wrong_password_is_said(self, tmp_path: Path, started: list[Mosquitto]) -> None:
        broker = Mosquitto(tmp_path / "broker", passwords={"edge": "right"}, acl="user edge\ntopic #\n")
        started.append(broker.start())
        settings = Mqtt(port=broker.port, username="edge")
        finding = said(check_broker(settings, STATION, {"EDGE_MQTT_PASSWORD": "wrong"}))["broker login"]
        assert finding.level == "fault"
        assert "refused" in finding.says
        good = levels(check_broker(settings, STATION, {"EDGE_MQTT_PASSWORD": "right"}))
        assert set(good.values()) == {"ok"}

    def test_what_the_acl_refuses_is_said_with_the_rule_that_is_missing(
        self, tmp_path: Path, started: list[Mosquitto]
    ) -> None:
        broker = Mosquitto(tmp_path / "broker", acl="topic read #\n").start()
        started.append(broker)
        finding = said(check_broker(Mqtt(port=broker.port), STATION, {}))["broker ACL"]
        assert finding.level == "fault"
        assert "Not authorized" in finding.says
        assert "edge/st/#" in finding.fix
        old = said(check_broker(Mqtt(port=broker.port, protocol=311), STATION, {}))["broker ACL"]
        assert old.level == "note"  # 3.1.1 cannot tell

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_certificates_are_checked_and_their_days_counted(
        self, tmp_path: Path, started: list[Mosquitto]
    ) -> None:
        ours, foreign = Authority(tmp_path / "ca"), Authority(tmp_path / "foreign", "foreign")
        theirs, station = ours.issue("broker"), ours.issue("st")
        broker = Mosquitto(tmp_path / "broker", tls=(ours.ca_file, theirs.cert_file, theirs.key_file))
        started.append(broker.start())

        def tls(ca: Authority) -> Mqtt:
            files = {"cert_file": station.cert_file, "key_file": station.key_file}
            return Mqtt(port=broker.port, tls=Tls(ca_file=ca.ca_file, **files))

        found = said(check_broker(tls(ours), STATION, {}))
        assert found["broker TLS"].level == found["our certificate"].level == "warning"
        assert "for 1 day more" in found["broker TLS"].says
        assert found["broker ACL"].level == "ok"
        refused = said(check_broker(tls(foreign), STATION, {}))
        assert refused["broker TLS"].level == "fault"
        assert "broker login" not in refused
        plain = said(check_broker(Mqtt(port=broker.port), STATION, {}))
        assert plain["broker login"].level == "fault"

    def test_an_expired_certificate_is_refused(self, tmp_path: Path, started: list[Mosquitto]) -> None:
        ca = Authority(tmp_path / "ca")
        old = ca.issue("broker", age=3 * DAY)
        broker = Mosquitto(tmp_path / "broker", tls=(ca.ca_file, old.cert_file, old.key_file))
        started.append(broker.start())
        finding = said(check_broker(Mqtt(port=broker.port, tls=Tls(ca_file=ca.ca_file)), STATION, {}))
        assert finding["broker TLS"].level == "fault"
        assert "expired" in finding["broker TLS"].says
