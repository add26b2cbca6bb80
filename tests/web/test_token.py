"""Where the token comes from, and what config.toml must say before others than this machine can ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import config
from edge.check import check_token
from edge.errors import ConfigError
from edge.web.token import read_token

TOKEN = "0123456789abcdef"


def load(folder: Path, http: str) -> config.Settings:
    file = folder / "config.toml"
    file.write_text(f"schema_version = 1\n[http]\n{http}\n")
    return config.load(file)


def test_the_credential_comes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{TOKEN}file\n")
    assert read_token(tmp_path / "file", {}) == f"{TOKEN}file"
    (tmp_path / "http_token").write_text(f"{TOKEN}credential\r\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_token(tmp_path / "unreadable", credentials) == f"{TOKEN}credential"
    assert read_token(None, credentials) == f"{TOKEN}credential"
    assert read_token(None, {}) is None


@pytest.mark.parametrize("bad", ["", "\n", "t0ps3cret", "t0ps3cret with a space in it", "t0ps3crettäääääää"])
def test_a_bad_token_is_refused_and_not_shown(tmp_path: Path, bad: str) -> None:
    (tmp_path / "token").write_text(bad)
    with pytest.raises(ConfigError, match=r"http\.token_file = ") as caught:
        read_token(tmp_path / "token", {})
    assert "t0ps3cret" not in str(caught.value)
    assert "openssl rand" in caught.value.hint


def test_a_token_that_is_not_there_names_file_and_key(tmp_path: Path) -> None:
    settings = load(tmp_path, 'token_file = "none"')
    with pytest.raises(ConfigError) as caught:
        check_token(settings)
    assert f"{tmp_path / 'config.toml'}: http.token_file = '{tmp_path / 'none'}'" in str(caught.value)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1", "edge.plant", "localhost.evil.example"])
def test_open_to_the_network_needs_a_token_or_a_proxy(tmp_path: Path, address: str) -> None:
    listen = f'listen = "{address}:9470"'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"# first\n{listen}")
    assert f"config.toml:4: http.listen = '{address}:9470' is open to everybody" in str(caught.value)
    assert "token_file" in caught.value.hint
    assert load(tmp_path, f'{listen}\ntoken_file = "t"').http.token_file == tmp_path / "t"
    assert load(tmp_path, f"{listen}\nbehind_proxy = true").http.behind_proxy
    assert not load(tmp_path, f"{listen}\nenabled = false").http.enabled


def test_a_credential_is_a_token_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "http_token").write_text(TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert not load(tmp_path, 'listen = "0.0.0.0:9470"').http.on_loopback


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_on_loopback_nothing_is_needed_and_only_its_names_are_answered(tmp_path: Path, address: str) -> None:
    http = load(tmp_path, f'listen = "{address}:9470"\nhosts = ["Edge.Plant"]').http
    assert http.answers_to == {"localhost", "127.0.0.1", "::1", "edge.plant", address.strip("[]")}
    assert load(tmp_path, "").http.answers_to == {"localhost", "127.0.0.1", "::1"}


def test_beyond_it_any_name_unless_some_are_given(tmp_path: Path) -> None:
    listen = 'listen = "192.0.2.1:9470"\nbehind_proxy = true'
    assert load(tmp_path, listen).http.answers_to == frozenset()
    named = load(tmp_path, f'{listen}\nhosts = ["edge.plant"]').http
    assert named.answers_to == {"localhost", "127.0.0.1", "::1", "192.0.2.1", "edge.plant"}


@pytest.mark.parametrize("host", ["edge.plant:443", "https://edge.plant", "*", ""])
def test_a_host_is_a_name(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml:3: http\.hosts"):
        load(tmp_path, f'hosts = ["{host}"]')


def test_a_token_in_the_configuration_itself_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'http\.token'.*\n.*token_file") as caught:
        load(tmp_path, 'token = "t0ps3cret"')
    assert "t0ps3cret" not in str(caught.value)
