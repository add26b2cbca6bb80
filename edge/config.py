"""config.toml → frozen, validated settings. Every error names file, line, key and value, and the fix."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edge.errors import ConfigError

# What a frame may be called, unless a source says otherwise; compared without regard to case
FRAME_PATTERNS = ("*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp", "*.dcm")
SEARCH_PATH = (Path("config.toml"), Path("/etc/edge/config.toml"))
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_MOST_BYTES = 2**63 - 1
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def _bytes(value: object) -> object:
    """ "20GB" → 20 000 000 000; integers pass through."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError('expected a size such as "20GB" or "512MiB"')
    size = float(match[1]) * _UNITS[match[2].lower()]
    if not size <= _MOST_BYTES:
        raise ValueError("more bytes than any disk has")
    return int(size)


def _topic_level(value: str) -> str:
    if not value or set(value) & set("+#/\0"):
        raise ValueError("goes into MQTT topics: not empty, and none of + # /")
    return value


def label(value: str) -> str:
    """What names of sources and recipes must be, as they become folders and Prometheus labels."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError("letters, digits, '.', '_' and '-' only, starting with a letter or digit")
    return value


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nobody else hears what is said; names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    from edge.publish.fields import Selection

    Selection.of(fields)
    return fields


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Fields = Annotated[tuple[str, ...], AfterValidator(_fields)]
Label = Annotated[str, AfterValidator(label)]
TopicLevel = Annotated[str, AfterValidator(_topic_level)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Station(_Table):
    name: TopicLevel = "edge-1"  # in topics and payloads


class Paths(_Table):
    engines: Path = Path("engines")  # a folder for each bundle
    calibration: Path = Path("calibration")  # NAME.json: thresholds of each view
    state: Path = Path("var")  # database, evidence, compiled engines; on a local disk


class DicomNaming(_Table):
    """DICOM keywords that give part, view and batch."""

    part: str | None = None  # keyword such as PatientID
    view: str | None = None  # such as ViewPosition
    batch: str | None = None  # such as StudyID

    @field_validator("part", "view", "batch")
    @classmethod
    def _is_a_keyword(cls, keyword: str | None) -> str | None:
        from pydicom.datadict import tag_for_keyword

        if keyword is not None and tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is not a DICOM keyword, such as PatientID or ViewPosition")
        return keyword


class Source(_Table):
    """A folder that a scanner writes frames into."""

    name: Label  # in metrics and the log
    directory: Path  # which the scanner writes into; never changed
    recipe: str  # what judges its frames
    template: str | None = None  # names → part, view, batch: {batch}/{part}_{view}
    pattern: str | None = None  # the same as a regular expression with named groups
    dicom: DicomNaming | None = None
    include: tuple[str, ...] = Field(FRAME_PATTERNS, min_length=1)  # names of frames
    exclude: tuple[str, ...] = ()  # names of files that are none, such as thumb*
    recursive: bool = True  # folders below as well
    order: Literal["oldest", "newest"] = "oldest"  # of a backlog
    settle_s: float = Field(1.0, ge=0)  # a file unchanged for this long may be complete
    # one whose end is still missing then is recorded as truncated
    incomplete_after_s: float = Field(60.0, ge=0)
    marker: str | None = None  # wait for this file beside each frame, such as .done
    mount: Path | None = None  # must be mounted, or the source is not reachable
    # under a new name: link to its verdict if part, batch and view are the same; link: always; judge: never
    same_content: Literal["auto", "link", "judge"] = "auto"
    watch: Literal["auto", "native", "polling"] = "auto"  # auto: polling on network mounts
    rescan_s: float = Field(5.0, gt=0)  # what events missed is found after this long
    # stored values that are black and white, where files do not say it
    value_range: tuple[float, float] | None = None
    checksum: Literal[".sha256", ".sha512", ".sha1", ".md5", ".crc32"] | None = None  # of files beside frames
    holes: Literal["auto", "refuse", "accept"] = (
        "auto"  # bytes of a file that were reserved and never written
    )

    @model_validator(mode="after")
    def _one_naming(self) -> Self:
        if sum(x is not None for x in (self.template, self.pattern, self.dicom)) > 1:
            raise ValueError("give one of template, pattern and dicom, not several")
        if self.value_range and self.value_range[0] == self.value_range[1]:
            raise ValueError("value_range needs two different values: [black, white]")
        from edge.intake.naming import compile_naming

        compile_naming(self.template, self.pattern, None)
        return self

    @property
    def names_parts(self) -> bool:
        """Whether its naming rule can say which part a frame shows."""
        if self.pattern is not None:
            return "part" in re.compile(self.pattern).groupindex
        if self.dicom is not None:
            return self.dicom.part is not None
        return self.template is not None and "{part}" in self.template


class Recipe(_Table):
    """What it takes to judge one product."""

    engine: str = ""  # empty: the recipe's own name
    calibration: str = ""  # empty: the recipe's own name
    views: tuple[str, ...] = ()  # that a part has; empty: frames only, no part verdict
    part_timeout_s: float = Field(60.0, gt=0)  # a part that still lacks views then is closed as partial

    @field_validator("views")
    @classmethod
    def _distinct(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(views)) != len(views):
            raise ValueError("lists a view twice")
        return views


class Runtime(_Table):
    # auto: the GPU if there is one that can be used
    device: Literal["auto", "tensorrt", "torch-cuda", "cpu"] = "auto"
    # auto: the fastest that may judge (edge compile)
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    threads: int = Field(0, ge=0)  # of the engine; 0: all cores
    decode_workers: int = Field(0, ge=0, le=64)  # 0: from the cores
    decode_timeout_s: float = Field(25.0, gt=0)  # to read a file, and again to decode it
    decode_memory: Bytes = 4_000_000_000  # of each worker
    max_pixels: int = Field(200_000_000, gt=0)  # refused from the header
    max_pages: int = Field(64, gt=0)  # of a file
    batch_frames: int = Field(16, gt=0)  # at most this many frames go through the engine together
    drain_s: float = Field(7.0, gt=0)  # of a stop, for what is under way
    on_engine_loss: Literal["restart", "cpu"] = "restart"  # when a device stops giving its golden answers


class Tls(_Table):
    ca_file: Path | None = None  # of the broker's certificate; else the system's
    cert_file: Path | None = None  # who we are, where the broker asks
    key_file: Path | None = None  # of that certificate, without a passphrase


class Mqtt(_Table):
    enabled: bool = True  # false: no broker
    host: str = "127.0.0.1"  # of the broker
    port: int = Field(1883, gt=0, lt=65536)  # 8883 is usual with TLS
    prefix: TopicLevel = "edge"  # of all topics: PREFIX/STATION/…
    protocol: Literal[5, 311] = 5  # MQTT 5, or 3.1.1
    keepalive_s: int = Field(10, ge=5)  # a silent broker is noticed within twice this
    username: str | None = None  # at the broker
    password_file: Path | None = None  # or EDGE_MQTT_PASSWORD, or the systemd credential mqtt_password
    tls: Tls | None = None
    requests: bool = False  # answer PREFIX/STATION/request/NAME
    wait_for_consumer: bool = False  # a verdict that the broker has no subscriber for is kept, as if refused

    # of verdicts: those to send, or to leave out with a minus, as ["-statistics"]; dotted inside others
    fields: Fields = ()

    @model_validator(mode="after")
    def _only_mqtt_5_tells(self) -> Self:
        if self.wait_for_consumer and self.protocol != 5:
            raise ValueError("wait_for_consumer needs protocol = 5: before, brokers do not say who listens")
        return self


class Sparkplug(_Table):
    """Verdicts as Sparkplug B 3.0, beside or instead of [mqtt]; each recipe is a device of the edge node."""

    enabled: bool = False  # true: verdicts go there as well
    group_id: TopicLevel = "edge"  # of all topics: spBv1.0/GROUP/…
    edge_node_id: TopicLevel | None = None  # left out: the station's name
    primary_host_id: TopicLevel | None = None  # verdicts wait while this host application is offline
    host: str | None = None  # of the broker; left out: that of [mqtt], with its user, password and TLS
    port: int | None = Field(None, gt=0, lt=65536)  # left out: that of [mqtt], or 1883 where a host is given
    protocol: Literal[5, 311] | None = None  # left out: that of [mqtt]
    username: str | None = None  # at that broker
    password_file: Path | None = None  # as mqtt.password_file
    tls: Tls | None = None
    fields: Fields = ()  # as mqtt.fields

    def broker(self, mqtt: Mqtt) -> Mqtt:
        """Where to connect: what is left out is that of [mqtt], whose secrets stay at its own broker."""
        same = mqtt if self.host is None else Mqtt(protocol=mqtt.protocol, keepalive_s=mqtt.keepalive_s)
        said = {
            key: getattr(self, key)
            for key in ("host", "port", "protocol", "username", "password_file", "tls")
        }
        return same.model_copy(update={key: value for key, value in said.items() if value is not None})


class _Sink(_Table):
    name: Label  # in metrics, the log, and the outbox
    kinds: tuple[Literal["frame", "part", "review"], ...] = Field(
        ("frame", "part", "review"), min_length=1
    )  # what is sent
    fields: Fields = ()  # as mqtt.fields


class FileSink(_Sink):
    """A receiver: files of JSON lines, `verdicts-DAY.jsonl`."""

    type: Literal["file"]  # files of JSON lines
    directory: Path  # where they are written
    max_age_days: float | None = Field(None, gt=0, le=36500)  # older files are removed; left out: never


class WebhookSink(_Sink):
    """A receiver: an HTTP server, which gets a POST for each verdict."""

    type: Literal["webhook"]  # a POST for each verdict
    url: str  # http:// or https://
    headers: dict[
        str, str
    ] = {}  # sent with each, such as { authorization = "…" }; secrets belong in secret_file
    secret_file: Path | None = None  # signs each request, as Standard Webhooks says
    ca_file: Path | None = None  # of the server's certificate; else the system's
    timeout_s: float = Field(10.0, gt=0, le=20)  # for an answer

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        wrong = not parts.hostname or parts.username or parts.fragment or parts.port == 0  # or it raises
        if parts.scheme not in ("http", "https") or wrong:
            raise ValueError('expected "https://HOST[:PORT]/PATH", without user name and fragment')
        if not url.isascii() or any(c.isspace() for c in url):
            raise ValueError("only printable ASCII can be in it: write the rest as %XX")
        return url

    @field_validator("headers")
    @classmethod
    def _plain(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not re.fullmatch(r"[\t -~]*", value):
                raise ValueError(f"{name!r}: a header's name and value are printable ASCII on one line")
            if name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
                raise ValueError(f"{name!r} is set by edge")
        return headers


SinkSettings = Annotated[FileSink | WebhookSink, Field(discriminator="type")]


class Http(_Table):
    enabled: bool = True  # false: no page, no metrics
    listen: str = "127.0.0.1:9470"  # HOST:PORT
    token_file: Path | None = None  # or the systemd credential http_token
    behind_proxy: bool = False  # something in front of it asks who it is
    hosts: tuple[str, ...] = ()  # names it answers to besides its own address, such as a proxy's

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError('expected "HOST:PORT", such as "127.0.0.1:9470"')
        return value

    @field_validator("hosts")
    @classmethod
    def _names_only(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [host for host in hosts if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host)]:
            raise ValueError(f"{bad[0]!r}: a name or an address, without port or https://")
        return tuple(host.lower().rstrip(".") for host in hosts)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.address[0])

    @property
    def answers_to(self) -> frozenset[str]:
        """What a Host header may say; empty: anything.

        On loopback no name but ours is right. Beyond it names cannot be known, and the token protects.
        """
        if not self.on_loopback and not self.hosts:
            return frozenset()
        return frozenset({*LOOPBACK_NAMES, self.address[0].lower(), *self.hosts})


class Evidence(_Table):
    # share of OK frames whose pictures are kept; of all others they are
    keep_ok_ratio: float = Field(0.02, ge=0, le=1)
    # "not_ok": the file of a frame that is not OK, or for review, is copied to its pictures
    keep_frames: Literal["none", "not_ok"] = "none"
    max_age_days: float = Field(90, gt=0, le=36500)  # of pictures
    max_bytes: Bytes = 20_000_000_000  # of all pictures; the oldest go
    min_free_bytes: Bytes | None = None  # of the disk; None: 1 GB, or a tenth of a smaller disk


class Record(_Table):
    max_age_days: float = Field(400, gt=0, le=36500)  # of verdicts in the database


class Drift(_Table):
    """When recent scores of a view are no longer those of its calibration."""

    window_s: float = Field(86400, ge=60)  # of recent verdicts; the latest 500 of a view
    min_frames: int = Field(50, ge=10, le=500)  # below it nothing is said
    psi_alarm: float = Field(0.25, gt=0)  # population stability index that matters
    forecast_alarm: float = Field(1.5, gt=1)  # times the promised false rejects that matter
    alarm_share: float = Field(0.001, gt=0, le=0.01)  # of the time in alarm while nothing drifts, at most


class Security(_Table):
    # a folder of .pub files, or a list of them: what is not signed by one of these keys does not judge
    trusted_keys: Path | tuple[Path, ...] | None = None


class Log(_Table):
    # of the least important lines that are written
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Table):
    """One site: everything `config.toml` says, with paths made absolute."""

    schema_version: Literal[1] = 1  # of this file
    station: Station = Station()
    paths: Paths = Paths()
    source: tuple[Source, ...] = ()
    recipe: dict[Label, Recipe] = {}
    runtime: Runtime = Runtime()
    mqtt: Mqtt = Mqtt()
    sparkplug: Sparkplug = Sparkplug()
    sink: tuple[SinkSettings, ...] = ()
    http: Http = Http()
    evidence: Evidence = Evidence()
    record: Record = Record()
    drift: Drift = Drift()
    security: Security = Security()
    log: Log = Log()
    file: Path = Field(Path("config.toml"), exclude=True)
    digest: str = Field("", exclude=True)  # sha256 of the file's bytes


def find(explicit: Path | None) -> Path:
    """The configuration file to use: `--config`, else EDGE_CONFIG, else ./config.toml, else /etc/edge."""
    if explicit is not None:
        return explicit
    if named := os.environ.get("EDGE_CONFIG"):
        return Path(named)
    return next((path for path in SEARCH_PATH if path.exists()), SEARCH_PATH[0])


def site(explicit: Path | None) -> Settings:
    """The configured site; without any configuration file the current folder with its defaults.

    For commands that need no daemon: learning comes before the first config.toml.

    Raises:
        ConfigError: as `load`.
    """
    path = find(explicit)
    if explicit is None and not os.environ.get("EDGE_CONFIG") and not path.exists():
        return _validated(path, "", {}, "")
    return load(path)


def load(path: Path) -> Settings:
    """Read and validate a configuration file.

    Raises:
        ConfigError: the file is missing, not TOML, or says something wrong; every fault is named.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")  # Windows editors begin with a mark
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file",
            hint="give --config PATH, set EDGE_CONFIG, or start from edge's own config.toml",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="readable UTF-8 is needed") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", hint="mend the line named above") from None
    for reserved in ("file", "digest"):
        if reserved in data:
            raise ConfigError(f"{path}:{line_of(text, (reserved,))}: unknown key {reserved!r}")
    return _validated(path, text, data, hashlib.sha256(raw).hexdigest())


def _validated(path: Path, text: str, data: dict[str, Any], digest: str) -> Settings:
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        problems = [_explain(path, text, dict(problem)) for problem in error.errors()]
        hints = [hint for _, hint in problems if hint]
        raise ConfigError("\n".join(message for message, _ in problems), hint="; ".join(hints)) from None
    _cross_check(path, text, settings)
    base = path.resolve().parent
    return settings.model_copy(
        update={
            "file": path.resolve(),
            "digest": digest,
            "paths": Paths(**{key: base / value for key, value in settings.paths.model_dump().items()}),
            "source": tuple(
                source.model_copy(
                    update={
                        "directory": base / source.directory,
                        "mount": None if source.mount is None else base / source.mount,
                    }
                )
                for source in settings.source
            ),
            "recipe": {
                name: recipe.model_copy(
                    update={"engine": recipe.engine or name, "calibration": recipe.calibration or name}
                )
                for name, recipe in settings.recipe.items()
            },
            "mqtt": _absolute_secrets(settings.mqtt, base),
            "sparkplug": _absolute_secrets(settings.sparkplug, base),
            "sink": tuple(_absolute_sink(sink, base) for sink in settings.sink),
            "security": _absolute_keys(settings.security, base),
            "http": settings.http.model_copy(
                update={"token_file": settings.http.token_file and base / settings.http.token_file}
            ),
        }
    )


def _absolute_keys(security: Security, base: Path) -> Security:
    keys = security.trusted_keys
    if keys is None:
        return security
    return Security(
        trusted_keys=tuple(base / key for key in keys) if isinstance(keys, tuple) else base / keys
    )


_Broker = TypeVar("_Broker", Mqtt, Sparkplug)


def _absolute_secrets(broker: _Broker, base: Path) -> _Broker:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else base / path

    tls = broker.tls and Tls(**{key: absolute(value) for key, value in broker.tls.model_dump().items()})
    return broker.model_copy(update={"password_file": absolute(broker.password_file), "tls": tls})


def _absolute_sink(sink: FileSink | WebhookSink, base: Path) -> FileSink | WebhookSink:
    if isinstance(sink, FileSink):
        return sink.model_copy(update={"directory": base / sink.directory})
    return sink.model_copy(
        update={
            "secret_file": sink.secret_file and base / sink.secret_file,
            "ca_file": sink.ca_file and base / sink.ca_file,
        }
    )


def _distinct_sinks(path: Path, text: str, settings: Settings) -> None:
    seen = {"mqtt", "sparkplug"}
    for index, sink in enumerate(settings.sink):
        if sink.name in seen:
            raise ConfigError(
                f"{path}:{line_of(text, ('sink', index, 'name'))}: a sink is called {sink.name!r} already",
                hint="give it another name: verdicts wait for each sink by its name",
            )
        seen.add(sink.name)


def _same_frames_twice(path: Path, text: str, settings: Settings) -> None:
    """Two sources over one folder would give each frame two verdicts, possibly different ones."""
    seen: dict[tuple[Path, tuple[str, ...]], str] = {}
    base = path.resolve().parent
    for index, source in enumerate(settings.source):
        key = (base / source.directory).resolve(), tuple(sorted(source.include))
        if other := seen.get(key):
            line = line_of(text, ("source", index, "directory"))
            raise ConfigError(
                f"{path}:{line}: sources {other!r} and {source.name!r} look at the same frames in {key[0]}",
                hint="give them different folders, or different include patterns",
            )
        seen[key] = source.name


def _open_to_everybody(path: Path, text: str, settings: Settings) -> None:
    """Beyond this machine a token, or the word that a proxy asks for one, is needed."""
    from edge.web.token import CREDENTIAL, has_credential

    http = settings.http
    asked = http.token_file is not None or http.behind_proxy or has_credential(os.environ)
    if http.enabled and not http.on_loopback and not asked:
        raise ConfigError(
            f"{path}:{line_of(text, ('http', 'listen'))}: http.listen = {http.listen!r} is open to everybody "
            "on the network",
            hint=f"add token_file to [http] (or give the systemd credential {CREDENTIAL}), listen on "
            "127.0.0.1, or say behind_proxy = true if a reverse proxy asks who it is",
        )


def _cross_check(path: Path, text: str, settings: Settings) -> None:
    """What no single table can know: names that refer to each other."""
    _same_frames_twice(path, text, settings)
    _open_to_everybody(path, text, settings)
    _distinct_sinks(path, text, settings)
    seen: set[str] = set()
    for index, source in enumerate(settings.source):
        if source.name in seen:
            line = line_of(text, ("source", index, "name"))
            raise ConfigError(f"{path}:{line}: two sources are called {source.name!r}", hint="rename one")
        seen.add(source.name)
        if source.recipe not in settings.recipe:
            line = line_of(text, ("source", index, "recipe"))
            near = _nearest(source.recipe, list(settings.recipe))
            raise ConfigError(
                f"{path}:{line}: source {source.name!r} wants recipe {source.recipe!r}, which is not defined",
                hint=near or f"add a table [recipe.{source.recipe}]",
            )
        if settings.recipe[source.recipe].views and not source.names_parts:
            rule = next((key for key in ("template", "pattern", "dicom") if getattr(source, key)), "name")
            line = line_of(text, ("source", index, rule))
            raise ConfigError(
                f"{path}:{line}: source {source.name!r} does not say which part a frame shows, which "
                f"recipe.{source.recipe}.views needs",
                hint="give the source a template, pattern or dicom with part in it, such as template = "
                f'"{{batch}}/{{part}}_{{view}}", or take views out of [recipe.{source.recipe}]',
            )


def _explain(path: Path, text: str, problem: dict[str, Any]) -> tuple[str, str]:
    said: tuple[str | int, ...] = tuple(problem["loc"])
    loc = _written(said)
    types = [kind for model in _SINK_TYPES for kind in _tags(model)]
    if problem["type"] == "union_tag_invalid":
        kind = str(problem["ctx"]["tag"])
        where, key = _place(path, text, (*loc, "type"))
        near = _nearest(kind, types) or f"known types: {', '.join(types)}"
        return f"{where}: {key} = {kind!r}: there is no such type", near
    if problem["type"] == "union_tag_not_found":
        where, key = _place(path, text, (*loc, "type"))
        return f"{where}: key {key!r} is missing", "add type = " + " or ".join(f'"{kind}"' for kind in types)
    where, key = _place(path, text, loc)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(said[:-1])
        near = _nearest(str(loc[-1]), known)
        return f"{where}: unknown key {key!r}", near or f"known here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{where}: key {key!r} is missing", f"add {loc[-1]} = … to that table"
    if problem["type"] == "tuple_type" and len(loc) == 1:
        return f"{where}: {key} is no list of tables", f"write [[{key}]] over each of them"
    value = problem.get("input")
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{where}: {key}{shown}: {problem['msg'].removeprefix('Value error, ')}", ""


def _place(path: Path, text: str, loc: tuple[str | int, ...]) -> tuple[str, str]:
    """File and line of a key, and the key as a person writes it: `source[0].engine`."""
    key = ".".join(f"[{part}]" if isinstance(part, int) else part for part in loc).replace(".[", "[")
    return f"{path}:{line_of(text, loc)}", key


_SINK_TYPES = (FileSink, WebhookSink)


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What `type` says for this one of several tables."""
    return get_args(model.model_fields["type"].annotation)


def _written(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """pydantic's place of a problem without the type of sink that it puts in, which no key is."""
    return (*loc[:2], *loc[3:]) if loc[0] == "sink" else loc


def _keys_at(loc: Sequence[str | int]) -> list[str]:
    models: list[type[BaseModel]] = [Settings]
    for part in loc:
        tagged = [model for model in models if len(models) > 1 and part in _tags(model)]
        if tagged:
            models = tagged
        elif isinstance(part, str) and (field := models[0].model_fields.get(part)):
            models = _models_of(field.annotation) or models
    return [key for key in models[0].model_fields if key not in ("file", "digest")]


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """The tables inside `tuple[Table, ...]`, `dict[str, Table]`, `Table | None` or `Table | OtherTable`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in getattr(annotation, "__args__", ()) for model in _models_of(arg)]


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def line_of(text: str, loc: Sequence[str | int]) -> int:
    """The 1-based line of a key in a TOML text: the deepest part of `loc` that has a line of its own.

    tomllib keeps no positions, so the text is scanned for table headers and keys; inline tables resolve to
    the line they start on.
    """
    names = [str(part) for part in loc if not isinstance(part, int)]
    index = next((part for part in loc if isinstance(part, int)), 0)
    best, best_depth, seen = 1, 0, -1
    table: list[str] = []
    array: list[str] = []  # the array of tables that `index` counts, once its first element was seen
    for number, line in _statements(text):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            here = table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[" and table == names[: len(table)] and array in ([], table):
                array, seen = table, seen + 1
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            here = table + [part.strip("\"'") for part in key[1].split(".")]
        else:
            continue
        # tables below an element, such as [source.dicom], belong to the element before them
        elsewhere = array and table[: len(array)] == array and seen != index
        if not elsewhere and here == names[: len(here)] and len(here) > best_depth:
            best, best_depth = number, len(here)
    return best


_TOKEN = re.compile(
    r"""(?P<open>\"{3}|'{3}) | "(?:[^"\\]|\\.)*" | '[^']*' | \#.* | (?P<bracket>[\[\]{}])""", re.VERBOSE
)
_LONG_STRING_END = {'"""': re.compile(r'(?:[^\\]|\\.)*?"{3,5}'), "'''": re.compile(r".*?'{3,5}")}


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that begin a statement: not those inside a long array or string."""
    depth, quote = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if depth == 0 and not quote:
            yield number, line
        at = 0
        while at < len(line):
            if quote:
                found = _LONG_STRING_END[quote].match(line, at)
                if found is None:
                    break
                at, quote = found.end(), ""
            elif token := _TOKEN.search(line, at):
                at, quote = token.end(), token["open"] or ""
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token["bracket"], 0)
            else:
                break
