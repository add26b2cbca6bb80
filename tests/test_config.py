import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import config
from edge.errors import ConfigError

GOOD = """schema_version = 1
[station]
name = "ct-1"
[[source]]
name = "ct"
directory = "incoming"
recipe = "bracket"
template = "{batch}/{part}_{view}"
[[source]]
name = "sem"
directory = "/data/sem"
template = "{part}"
recipe = "bracket"
[recipe.bracket]
views = ["01", "02"]
[mqtt.tls]
ca_file = "ca.pem"
[evidence]
max_bytes = "20GB"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(write(folder, text))
    assert caught.value.exit_code == 78
    return caught.value


def test_a_good_file_loads_with_absolute_paths_and_defaults(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, GOOD))
    assert settings.source[0].directory == tmp_path / "incoming"
    assert settings.source[1].directory == Path("/data/sem")
    assert settings.recipe["bracket"].engine == "bracket"
    assert settings.mqtt.tls.ca_file == tmp_path / "ca.pem"
    assert settings.evidence.max_bytes == 20_000_000_000
    assert len(settings.digest) == 64


def test_a_typo_yields_file_line_key_and_the_nearest_valid_key(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace('template = "', 'tempalte = "'))
    assert f"{tmp_path}/config.toml:8: unknown key 'source[0].tempalte'" in str(error)
    assert "did you mean 'template'?" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[station]", "[sttaion]", ["config.toml:2: unknown key 'sttaion'", "did you mean 'station'"]),
        ('name = "sem"', 'name = "ct"', ["config.toml:10: two sources are called 'ct'"]),
        ('recipe = "bracket"\n[recipe', 'recipe = "braket"\n[recipe', ["config.toml:13:", "mean 'bracket'"]),
        ('"20GB"', '"20 apples"', ["config.toml:19: evidence.max_bytes = '20 apples': expected a size"]),
        ('["01", "02"]', '["01", "01"]', ["config.toml:15: recipe.bracket.views", "twice"]),
        ('"{batch}/{part}_{view}"', '"{prat}"', ["unknown field {prat}"]),
        ('name = "ct-1"', 'name = "a/b"', ["config.toml:3: station.name = 'a/b'", "MQTT topics"]),
        ("schema_version = 1", "schema_version = 2", ["config.toml:1: schema_version = 2"]),
        ('directory = "incoming"\n', "", ["key 'source[0].directory' is missing"]),
        ("[mqtt.tls]", "[mqtt.tls", ["not valid TOML", "line 16"]),
        ('name = "ct-1"', 'name = "ct-1"\n[file]', ["unknown key 'file'"]),
        ('"20GB"', '"' + "9" * 400 + '"', ["config.toml:19: evidence.max_bytes", "more bytes than"]),
        ('template = "{part}"', "value_range = [0, nan]", ["source[1].value_range[1]", "finite number"]),
        ('template = "{part}"', "settle_s = inf", ["config.toml:12: source[1].settle_s", "finite number"]),
    ],
)
def test_every_fault_is_named(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    text = str(refused(tmp_path, GOOD.replace(old, new)))
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('[[sink]]\ntype = "webhok"', [":2: sink[0].type = 'webhok': there is no", "mean 'webhook'?"]),
        ('[[sink]]\ntype = "fax"', ["known types: file, webhook"]),
        ('[[sink]]\nname = "a"', [":1: key 'sink[0].type' is missing", 'type = "file" or "webhook"']),
        ('[[sink]]\ntype = "file"\ndirectroy = "d"', [":3: unknown key 'sink[0].directroy'", "'directory'?"]),
        ('[[sink]]\ntype = "webhook"\nulr = "http://x"', [":3: unknown key 'sink[0].ulr'", "'url'?"]),
        ('[[sink]]\ntype = "webhook"\nurl = "ftp://x"', [":3: sink[0].url = 'ftp://x': expected"]),
        ('[sink]\ntype = "file"', [":1: sink is no list of tables", "write [[sink]]"]),
        ('[source]\nname = "a"', [":1: source is no list of tables", "write [[source]]"]),
    ],
)
def test_a_fault_in_a_list_of_tables_is_named_as_it_is_written(
    tmp_path: Path, table: str, expected: list[str]
) -> None:
    text = str(refused(tmp_path, table))
    for part in expected:
        assert part in text


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace("name = ", "nmae = "))
    assert error.message.count("unknown key") == 3


def test_only_one_rule_may_name_frames(tmp_path: Path) -> None:
    text = GOOD.replace('template = "', "pattern = '(?P<part>.*)'\ntemplate = \"")
    assert "one of template, pattern and dicom" in str(refused(tmp_path, text))


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("", 10),
        ('template = "{view}"', 12),
        ("pattern = '(?P<view>.*)'", 12),
        ('dicom = { view = "ViewPosition" }', 12),
    ],
)
def test_a_recipe_with_views_needs_sources_that_name_the_part(tmp_path: Path, rule: str, line: int) -> None:
    error = refused(tmp_path, GOOD.replace('template = "{part}"\n', f"{rule}\n" if rule else ""))
    assert f"config.toml:{line}: source 'sem' does not say which part" in error.message
    assert "take views out of [recipe.bracket]" in error.hint


@pytest.mark.parametrize("rule", ["pattern = '(?P<part>.*)'", 'dicom = { part = "PatientID" }'])
def test_views_may_come_from_the_pages_of_a_file(tmp_path: Path, rule: str) -> None:
    config.load(write(tmp_path, GOOD.replace('template = "{part}"', rule)))


def test_a_fault_in_a_table_below_a_source_is_found_in_the_right_source(tmp_path: Path) -> None:
    text = """[[source]]
name = "a"
directory = "a"
recipe = "r"
[source.dicom]
part = "PatientID"
[[source]]
name = "b"
directory = "b"
recipe = "r"
[source.dicom]
part = "PateintID"
[recipe.r]
"""
    assert "config.toml:12: source[1].dicom.part" in refused(tmp_path, text).message
    first = text.replace("PateintID", "StudyID").replace("PatientID", "PateintID")
    assert "config.toml:6: source[0].dicom.part" in refused(tmp_path, first).message


LONG_VALUES = '''[station]
name = "x"
note = [
  ["a"],  # not a header ]
  "]", \'[\', """
[mqtt]
port = 1 ""\\"" """,
]
[mqtt]
port = 2
'''


@pytest.mark.parametrize(
    ("loc", "line"), [(("station", "note"), 3), (("station", "note", 0, 0), 3), (("mqtt", "port"), 10)]
)
def test_what_lies_inside_a_long_array_or_string_is_no_header(loc: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(LONG_VALUES)
    assert config.line_of(LONG_VALUES, loc) == line


def test_a_dicom_keyword_must_exist(tmp_path: Path) -> None:
    text = GOOD.replace('template = "{batch}/{part}_{view}"', 'dicom = { part = "PateintID" }')
    assert "'PateintID' is not a DICOM keyword" in str(refused(tmp_path, text))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config PATH"):
        config.load(tmp_path / "nowhere.toml")


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CONFIG", str(tmp_path / "x.toml"))
    assert config.find(None) == tmp_path / "x.toml"
    assert config.find(Path("y.toml")) == Path("y.toml")


def test_commands_without_a_daemon_need_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    monkeypatch.setattr(config, "SEARCH_PATH", (Path("config.toml"),))
    assert config.site(None).paths.engines == tmp_path / "engines"


def test_the_shipped_configuration_is_valid() -> None:
    config.load(Path(__file__).parent.parent / "config.toml")


@given(st.text(max_size=200))
def test_no_text_gives_anything_but_settings_or_a_config_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            config.load(file)
        except ConfigError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is fine, a third is not


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert config.load(tmp_path / "config.toml").station.name == "ct-1"


def test_two_sources_over_the_same_frames_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace('"/data/sem"', f'"{tmp_path}/incoming"'))
    assert "config.toml:11: sources 'ct' and 'sem' look at the same frames" in str(error)


def test_a_source_that_includes_nothing_is_refused(tmp_path: Path) -> None:
    assert "include" in str(refused(tmp_path, GOOD.replace('name = "sem"', 'name = "sem"\ninclude = []')))


def test_sparkplug_takes_the_broker_of_mqtt_but_its_secrets_only_there(tmp_path: Path) -> None:
    text = GOOD.replace("[mqtt.tls]", '[mqtt]\nhost = "plant"\nport = 8883\nusername = "edge"\n[mqtt.tls]')
    same = config.load(write(tmp_path, text + "[sparkplug]\nenabled = true\n"))
    broker = same.sparkplug.broker(same.mqtt)
    assert (broker.host, broker.port, broker.username) == ("plant", 8883, "edge")
    assert broker.tls == same.mqtt.tls
    other = config.load(write(tmp_path, text + '[sparkplug]\nhost = "scada"\npassword_file = "secret"\n'))
    broker = other.sparkplug.broker(other.mqtt)
    assert (broker.host, broker.port, broker.username, broker.tls) == ("scada", 1883, None, None)
    assert broker.password_file == tmp_path / "secret"


@pytest.mark.parametrize("key", ["group_id", "edge_node_id", "primary_host_id"])
@pytest.mark.parametrize("value", ["", "a/b", "+", "a#"])
def test_sparkplug_names_are_topic_levels(tmp_path: Path, key: str, value: str) -> None:
    error = refused(tmp_path, GOOD + f'[sparkplug]\n{key} = "{value}"\n')
    assert f"sparkplug.{key}" in error.message
