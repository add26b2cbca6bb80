"""Signed engines and calibrations: only the keys of `[security] trusted_keys` say what may judge."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from edge import cli, config
from edge.artifacts import write_signed_json
from edge.check import problems
from edge.errors import BundleError, CannotWriteError, ConfigError, MissingInputError, UsageError
from edge.infer.bundle import MANIFEST, load_bundle
from edge.judge.calibration import load_calibration, save_calibration
from edge.recipes import open_recipe, sign_recipe
from edge.renewal import Renewal
from edge.signing import (
    Trusted,
    check_signature,
    key_name,
    make_keys,
    message,
    read_private,
    sign,
    signature_file,
    trusted_keys,
)
from tests.sites import make_recipe

REQUIRED = '[security]\ntrusted_keys = "trusted"\n'
SOURCE = '[[source]]\nname = "s"\ndirectory = "."\nrecipe = "blur"\n[recipe.blur]\n'


@dataclass(frozen=True)
class SignedSite:
    """A recipe, a key pair, and a configuration that trusts it."""

    folder: Path

    @property
    def private(self) -> Path:
        return self.folder / "maker" / "edge.key"

    @property
    def signatures(self) -> tuple[Path, Path]:
        return (
            self.folder / "engines" / "blur" / "bundle.json.sig",
            self.folder / "calibration" / "blur.json.sig",
        )

    def settings(self, text: str = REQUIRED) -> config.Settings:
        file = self.folder / "config.toml"
        file.write_text(SOURCE + text)
        return config.load(file)

    def open(self, text: str = REQUIRED) -> None:
        open_recipe(self.settings(text), "blur")

    def sign(self, key: Path | None = None) -> None:
        sign_recipe(self.settings(), "blur", read_private(key or self.private))

    def refused(self) -> BundleError:
        with pytest.raises(BundleError) as caught:
            self.open()
        assert caught.value.reason == "signature"
        assert "edge sign --recipe blur --key FILE" in caught.value.hint
        return caught.value


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> SignedSite:
    """Signed, and opened once: what is compiled is copied along."""
    folder = tmp_path_factory.mktemp("site")
    make_recipe(folder)
    _, public, _ = make_keys(folder / "maker", "edge")
    (folder / "trusted").mkdir()
    shutil.copy(public, folder / "trusted")
    site = SignedSite(folder)
    site.sign()
    site.open()
    return site


@pytest.fixture
def site(pristine: SignedSite, tmp_path: Path) -> SignedSite:
    shutil.copytree(pristine.folder, tmp_path, dirs_exist_ok=True)
    return SignedSite(tmp_path)


def test_what_a_trusted_key_signed_opens(site: SignedSite) -> None:
    site.open()
    assert problems(site.settings()) == []


@pytest.mark.parametrize("which", [0, 1])
def test_without_a_signature_it_does_not_open_and_check_says_which(site: SignedSite, which: int) -> None:
    site.signatures[which].unlink()
    error = site.refused()
    assert str(site.signatures[which]) in error.message
    assert "is not signed" in error.message
    (problem,) = problems(site.settings())
    assert problem.message == error.message
    assert problem.exit_code == 65


@pytest.mark.parametrize("signatures", ["none", "wrong", "right"])
def test_where_none_is_required_signatures_are_not_looked_at(site: SignedSite, signatures: str) -> None:
    for file in site.signatures:
        if signatures == "none":
            file.unlink()
        elif signatures == "wrong":
            file.write_text("nonsense")
    site.open("")


def test_a_key_that_is_not_trusted_is_named_and_refused(site: SignedSite) -> None:
    private, _, name = make_keys(site.folder / "stranger", "edge")
    site.sign(private)
    assert f"signed by key {name}, which is not in {site.folder / 'trusted'}" in site.refused().message


def test_a_stranger_who_takes_the_name_of_a_trusted_key_is_refused(site: SignedSite) -> None:
    private, _, name = make_keys(site.folder / "stranger", "edge")
    trusted = key_name(read_private(site.private).public_key())
    site.sign(private)
    for file in site.signatures:
        file.write_text(file.read_text().replace(name, trusted))
    assert "is not of bundle.json as it is now" in site.refused().message


@pytest.mark.parametrize("which", [0, 1])
def test_any_flipped_bit_of_a_signature_is_noticed(site: SignedSite, which: int) -> None:
    """All eight bits of every byte of the file; through `check_signature`, which is what opening calls."""
    file = site.signatures[which]
    document = file.with_name(file.name.removesuffix(".sig"))
    kind, digest = digest_of(site, which)
    trusted = trusted_keys(site.settings())
    assert trusted is not None
    whole = file.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            spoiled = bytearray(whole)
            spoiled[position] ^= 1 << bit
            file.write_bytes(spoiled)
            with pytest.raises(BundleError):
                check_signature(document, kind, digest, trusted, "blur")
    for spoiled_ in (b"", whole[:-1], whole + b"\n", whole * 2, b" " + whole, whole.replace(b"\n", b"\r\n")):
        file.write_bytes(spoiled_)
        with pytest.raises(BundleError):
            check_signature(document, kind, digest, trusted, "blur")
    file.write_bytes(whole)
    check_signature(document, kind, digest, trusted, "blur")


def digest_of(site: SignedSite, which: int) -> tuple:  # type: ignore[type-arg]
    bundle = load_bundle(site.folder / "engines" / "blur")
    if which == 0:
        return "edge/bundle/1", bundle.digest
    calibration = load_calibration(site.folder / "calibration" / "blur.json", bundle.digest)
    return "edge/calibration/1", calibration.digest


@given(st.text(max_size=80), st.sampled_from(["edge/bundle/1", "edge/calibration/1"]))
def test_what_was_signed_as_one_thing_never_passes_for_another(digest: str, kind: str) -> None:
    other = "edge/calibration/1" if kind == "edge/bundle/1" else "edge/bundle/1"
    document = Path("blur.json")
    assert message(document, kind, digest) != message(document, other, digest)  # type: ignore[arg-type]


def test_a_signature_of_a_calibration_is_none_of_a_bundle_with_that_digest(tmp_path: Path) -> None:
    private, _, _ = make_keys(tmp_path, "k")
    key = read_private(private)
    trusted = Trusted("here", {key_name(key.public_key()): key.public_key()})
    digest, document = "ab" * 32, tmp_path / "document.json"
    sign(document, "edge/calibration/1", digest, key)
    check_signature(document, "edge/calibration/1", digest, trusted, "r")
    with pytest.raises(BundleError, match="is not of document"):
        check_signature(document, "edge/bundle/1", digest, trusted, "r")


def test_signatures_of_the_two_files_cannot_be_exchanged(site: SignedSite) -> None:
    one, other = (file.read_bytes() for file in site.signatures)
    site.signatures[0].write_bytes(other)
    site.signatures[1].write_bytes(one)
    site.refused()


def test_the_signed_pair_of_another_recipe_does_not_judge_in_its_place(site: SignedSite) -> None:
    make_recipe(site.folder, "other")
    sign_recipe(site.settings(), "other", read_private(site.private))
    open_recipe(site.settings(), "other")
    shutil.rmtree(site.folder / "engines" / "blur")
    shutil.copytree(site.folder / "engines" / "other", site.folder / "engines" / "blur")
    for end in (".json", ".json.sig"):
        shutil.copy(site.folder / "calibration" / f"other{end}", site.folder / "calibration" / f"blur{end}")
    site.open("")  # it fits together
    assert "is not of blur.json" in site.refused().message


def relearn(site: SignedSite) -> None:
    """As `edge learn` puts a new pair in place."""
    renewal = Renewal(site.folder / "engines" / "blur", site.folder / "calibration" / "blur.json")
    bundle = load_bundle(renewal.engine)
    calibration = load_calibration(renewal.calibration, bundle.digest)
    shutil.copytree(renewal.engine, renewal.new_engine, ignore=shutil.ignore_patterns("*.sig"))
    created = bundle.manifest.model_copy(update={"created": "2020-01-01T00:00:00+00:00"})
    write_signed_json(renewal.new_engine / MANIFEST, created)
    digest = load_bundle(renewal.new_engine).digest
    save_calibration(renewal.new_calibration, calibration.model_copy(update={"bundle_sha256": digest}))
    renewal.swap()


def test_what_was_learned_again_must_be_signed_again(site: SignedSite) -> None:
    before = [file.read_bytes() for file in site.signatures]
    relearn(site)
    assert "bundle.json is not signed" in site.refused().message
    site.signatures[0].write_bytes(before[0])  # the old one put back by hand
    assert "is not of bundle.json as it is now" in site.refused().message
    site.sign()
    site.open()


def test_what_was_calibrated_again_must_be_signed_again(site: SignedSite) -> None:
    file = site.folder / "calibration" / "blur.json"
    _, digest = digest_of(site, 0)
    calibration = load_calibration(file, digest)
    save_calibration(file, calibration.model_copy(update={"created": "2020-01-01T00:00:00+00:00"}))
    assert "is not of blur.json as it is now: that was made again" in site.refused().message
    site.sign()
    site.open()


@pytest.mark.parametrize("command", ["compile", "calibrate"])
def test_no_command_runs_an_engine_that_is_not_signed(
    site: SignedSite, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    site.settings()
    site.signatures[0].unlink()
    arguments = ["--recipe", "blur", "--config", str(site.folder / "config.toml")]
    images = [str(site.folder / "good")] if command == "calibrate" else []
    assert cli._run([command, *images, *arguments]) == 65
    assert "bundle.json is not signed" in capsys.readouterr().err


def test_an_old_pair_that_was_signed_once_still_opens(site: SignedSite, tmp_path: Path) -> None:
    """Signatures say who, not when: an older signed pair is a way back, and as trusted as it was."""
    kept = tmp_path / "kept"
    for name in ("engines", "calibration"):
        shutil.copytree(site.folder / name, kept / name)
    relearn(site)
    site.sign()
    for name in ("engines", "calibration"):
        shutil.rmtree(site.folder / name)
        shutil.copytree(kept / name, site.folder / name)
    site.open()


def test_a_damaged_bundle_is_not_signed(site: SignedSite) -> None:
    before = site.signatures[0].read_bytes()
    (site.folder / "engines" / "blur" / "model.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="damaged"):
        site.sign()
    assert site.signatures[0].read_bytes() == before


def test_an_engine_and_a_calibration_that_do_not_belong_together_are_not_signed(site: SignedSite) -> None:
    file = site.folder / "calibration" / "blur.json"
    calibration = load_calibration(file, digest_of(site, 0)[1])
    save_calibration(file, calibration.model_copy(update={"bundle_sha256": "0" * 64}))
    with pytest.raises(BundleError, match="made for bundle"):
        site.sign()


def test_an_engine_without_a_calibration_is_signed_alone(site: SignedSite) -> None:
    (site.folder / "calibration" / "blur.json").unlink()
    assert sign_recipe(site.settings(), "blur", read_private(site.private)) == (site.signatures[0],)


def test_several_keys_may_be_trusted_as_files_or_as_a_folder(site: SignedSite) -> None:
    private, public, _ = make_keys(site.folder / "second", "second")
    site.sign(private)
    site.refused()
    site.open('[security]\ntrusted_keys = ["trusted/edge.pub", "second/second.pub"]\n')
    site.open('[security]\ntrusted_keys = "second/second.pub"\n')
    shutil.copy(public, site.folder / "trusted")
    site.open()
    (site.folder / "trusted" / "second.pub").unlink()  # no longer trusted
    site.refused()


def rsa_public() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("keys", ["none", "folder", "nonsense", "rsa", "private", "empty list"])
def test_keys_that_cannot_be_had_stop_everything_and_are_named(site: SignedSite, keys: str) -> None:
    """Never: no usable key, so anything goes."""
    folder, text = site.folder / "trusted", REQUIRED
    if keys == "none":
        (folder / "edge.pub").unlink()
    elif keys == "folder":
        shutil.rmtree(folder)
    elif keys == "empty list":
        text = "[security]\ntrusted_keys = []\n"
    else:
        contents = {"nonsense": b"x", "rsa": rsa_public(), "private": site.private.read_bytes()}
        (folder / "other.pub").write_bytes(contents[keys])
    with pytest.raises(ConfigError, match=r"security\.trusted_keys") as caught:
        site.open(text)
    assert caught.value.hint
    assert problems(site.settings(text))[0].exit_code == 78


def test_an_unknown_key_of_security_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[security]\ntrusted_key = "trusted"\n')
    with pytest.raises(ConfigError, match="trusted_key'"):
        config.load(file)


def test_a_private_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private, public, _ = make_keys(tmp_path / "keys", "edge")
    finally:
        os.umask(old)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    secret = private.read_bytes()
    with pytest.raises(CannotWriteError, match=r"edge\.key: is there already"):
        make_keys(tmp_path / "keys", "edge")
    private.unlink()
    with pytest.raises(CannotWriteError, match=r"edge\.pub: is there already"):
        make_keys(tmp_path / "keys", "edge")
    assert not private.exists()
    public.unlink()
    private.symlink_to(tmp_path / "elsewhere")  # would be written through
    with pytest.raises(CannotWriteError):
        make_keys(tmp_path / "keys", "edge")
    assert not (tmp_path / "elsewhere").exists()
    assert b"PRIVATE KEY" in secret


def test_a_private_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    private, _, _ = make_keys(tmp_path, "edge")
    for mode in (0o640, 0o604, 0o660, 0o644):
        private.chmod(mode)
        with pytest.raises(UsageError, match="others may read") as caught:
            read_private(private)
        assert f"chmod 600 {private}" in caught.value.hint
    private.chmod(0o400)
    read_private(private)


@pytest.mark.parametrize("contents", ["nothing", "half", "text", "public", "password", "rsa"])
def test_what_is_no_private_key_is_refused_without_a_word_of_it(tmp_path: Path, contents: str) -> None:
    private, public, _ = make_keys(tmp_path, "edge")
    whole = private.read_bytes()
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    data = {
        "nothing": b"", "half": whole[: len(whole) // 2], "text": b"hunter2 " * 20,
        "public": public.read_bytes(), "password": locked, "rsa": other,
    }[contents]  # fmt: skip
    private.write_bytes(data)
    with pytest.raises(UsageError, match="no Ed25519 private key") as caught:
        read_private(private)
    lines = [line for line in data.decode().splitlines() if line and "-----" not in line]
    assert not any(line in str(caught.value) for line in lines)


def test_a_missing_private_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="No such file") as caught:
        read_private(tmp_path / "none.key")
    assert "edge keygen" in caught.value.hint


def test_the_commands_make_a_key_and_sign_with_it(
    site: SignedSite, capsys: pytest.CaptureFixture[str]
) -> None:
    site.settings()
    arguments = ["--config", str(site.folder / "config.toml")]
    assert cli._run(["keygen", str(site.folder / "new"), "--name", "line-7", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    private, public = Path(made["private"]), Path(made["public"])
    assert (private.name, public.name) == ("line-7.key", "line-7.pub")
    assert cli._run(["sign", "--recipe", "blur", "--key", str(private), "--json", *arguments]) == 0
    signed = json.loads(capsys.readouterr().out)
    assert signed == {
        "recipe": "blur", "key": made["key"], "files": [str(file) for file in site.signatures],
    }  # fmt: skip
    assert cli._run(["check", *arguments]) == 65
    assert f"signed by key {made['key']}" in capsys.readouterr().err
    shutil.copy(public, site.folder / "trusted")
    assert cli._run(["check", *arguments]) == 0
    secret = private.read_text().splitlines()[1]
    assert cli._run(["keygen", str(site.folder / "new"), "--name", "line-7"]) == 73
    assert cli._run(["keygen", str(site.folder / "new"), "--name", "../x"]) == 64
    assert cli._run(["sign", "--recipe", "other", "--key", str(private), *arguments]) == 78
    assert cli._run(["sign", "--recipe", "blur", "--key", str(public), *arguments]) == 64
    shown = capsys.readouterr()
    assert secret not in shown.out + shown.err
    assert signature_file(Path("a.json")) == Path("a.json.sig")


def test_a_site_that_asks_for_no_signature_needs_no_cryptography(site: SignedSite) -> None:
    """It is imported where a key is read, not by everything that opens a recipe."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from edge import config; from edge.recipes import open_recipe;"
        "open_recipe(config.load(Path(sys.argv[1])), 'blur'); assert 'cryptography' not in sys.modules"
    )
    site.settings("")
    file = str(site.folder / "config.toml")
    subprocess.run([sys.executable, "-c", code, file], check=True, timeout=60)
