"""``server.toml``: the defaults are the documented ones; wrong values are refused by name."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from cdam_core import images, threads
from pages import _settings
from pages._gate import Limits
from pages._settings import BadSettings, Computing, Settings, parse

ROOT = Path(__file__).parent.parent
SECTIONS = [each.name for each in fields(Settings)]


def test_the_file_that_ships_states_every_setting_with_its_default():
    content = (ROOT / "server.toml").read_text("utf-8")
    assert parse(content) == parse("") == Settings()
    stated = tomllib.loads(content)
    assert set(stated) == set(SECTIONS)
    for section in fields(Settings):
        assert set(stated[section.name]) == {each.name for each in fields(section.default)}


def test_the_guide_explains_every_setting():
    guide = (ROOT / "docs" / "server.md").read_text("utf-8")
    for section in fields(Settings):
        for option in fields(section.default):
            place = option.name if section.name == "oidc" else f"{section.name}.{option.name}"
            assert re.search(rf"\b{re.escape(place)}\b", guide), place


@pytest.mark.parametrize("section", SECTIONS)
def test_no_option_takes_a_value_of_another_kind(section):
    for option in fields(type(getattr(Settings(), section))):
        for wrong in ("{}", "[1]", "1979-05-27"):
            with pytest.raises(BadSettings, match=re.escape(f"{section}.{option.name} must be")):
                parse(f"[{section}]\n{option.name} = {wrong}")


SECRET = "s" * 40
WRONG = {
    '[access]\nidentity = "none"': 'access.identity must be one of "open", "proxy", "oidc"',
    '[access]\nidentity = "proxy"': "access.allowed is empty",
    '[access]\nallowed = ["anna"]': '"open" knows none',
    '[access]\nidentity = "proxy"\nallowed = ["*"]\ntrusted_proxies = []': "nobody could come in",
    '[access]\ntrusted_proxies = ["10.0.0.1/8"]': "access.trusted_proxies must be a list of addr",
    '[access]\ntrusted_proxies = ["*"]': "access.trusted_proxies must be a list of addresses",
    '[access]\nuser_header = "X Remote"': "access.user_header must be the name of a header",
    '[access]\nidentity = "oidc"\nallowed = ["*"]': "oidc.metadata_url is needed",
    '[oidc]\nmetadata_url = "http://id.example"': "an address that begins with https://",
    '[oidc]\nmetadata_url = "http://localhost.example/"': "an address that begins with https://",
    '[oidc]\nclient_secret_file = "nowhere"': "an existing file",
    "[oidc]\nsession_hours = 0": "oidc.session_hours must be a number from 0.1 to 720",
    "[uploads]\nfile_mb = 0": "uploads.file_mb must be a whole number from 1 to 20",
    "[uploads]\nfile_mb = 21": "uploads.file_mb must be a whole number from 1 to 20",
    "[uploads]\nfile_mb = true": "uploads.file_mb must be a whole number",
    "[uploads]\nfile_mb = 5\nsession_mb = 4": "uploads.session_mb is smaller than uploads.file_mb",
    "[uploads]\nall_mb = 19": "uploads.all_mb is smaller than uploads.file_mb",
    "[uploads]\nmegapixels = 41": "uploads.megapixels must be a whole number from 1 to 40",
    "[uploads]\nconcept_images = 2.5": "a whole number",
    "[computing]\ncores = -1": "a whole number from 0",
    "[computing]\npatience_s = nan": "a number from 1 to 3600",
    "[computing]\ncoers = 1": "computing.coers is not known; [computing] has cache_mb, cores",
    '[computing]\ndevice = "the card"': 'computing.device must be "auto", "cpu", "cuda"',
    "[computing]\nhalf = 1": "computing.half must be true or false",
    '[models]\nfolder = "no/such/folder"': "models.folder must be an existing folder",
    '[folders]\npictures = ["no/such/folder"]': "folders.pictures must be an existing folder",
    '[folders]\nconcepts = "a\\nb"': "folders.concepts must be a text of one line",
    "[upload]\n": "[upload] is not known",
    "uploads = 3": "uploads must be a section",
    "[uploads": "it is no TOML",
}


@pytest.mark.parametrize("content", WRONG)
def test_what_does_not_fit_is_refused_with_the_reason(content):
    with pytest.raises(BadSettings, match=re.escape(WRONG[content])):
        parse(content)


def oidc(tmp_path, mode=0o600, cookie=SECRET, redirect="https://cdam.example/oauth2callback"):
    """A complete section, with its files."""
    for name, content in (("client", "xyz"), ("cookie", cookie)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    return (f'[access]\nidentity = "oidc"\nallowed = ["*@clinic.example"]\n[oidc]\n'
            f'metadata_url = "https://id.example/.well-known/openid-configuration"\n'
            f'client_id = "cdam"\nclient_secret_file = "{tmp_path / "client"}"\n'
            f'cookie_secret_file = "{tmp_path / "cookie"}"\n'
            f'redirect_uri = "{redirect}"\n')  # fmt: skip


def test_a_complete_oidc_section_is_taken(tmp_path):
    assert parse(oidc(tmp_path)).oidc.client_id == "cdam"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_secrets_that_others_can_read_are_refused(tmp_path):
    with pytest.raises(BadSettings, match="its owner alone may read"):
        parse(oidc(tmp_path, mode=0o640))


@pytest.mark.parametrize(("change", "reason"), [
    ({"cookie": "s" * 31}, "32 characters"), ({"redirect": "https://x.example/"}, "callback"),
])  # fmt: skip
def test_a_weak_secret_and_a_wrong_return_are_refused(tmp_path, change, reason):
    with pytest.raises(BadSettings, match=reason):
        parse(oidc(tmp_path, **change))


def test_bounds_are_inclusive():
    assert parse("[uploads]\nfile_mb = 1").uploads.file_mb == 1
    assert parse("[computing]\npatience_s = 3600").computing.patience_s == 3600


# ---- where it is read from -----------------------------------------------------------------------


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file of the given bytes as the server does."""

    def settings(content):
        file = tmp_path / "server.toml"
        file.write_bytes(content)
        monkeypatch.setenv("CDAM_SERVER", str(file))
        _settings.settings.cache_clear()
        return _settings.settings()

    yield settings
    _settings.settings.cache_clear()


def test_another_file_can_be_named(read):
    assert read(b"[uploads]\nfile_mb = 7").uploads.file_mb == 7


@pytest.mark.parametrize(("content", "reason"), [
    (b"\xff", "server.toml cannot be read: it is no text in UTF-8"),
    (b"[uploads]\nfile_mb = 0", "server.toml: uploads.file_mb must be"),
])  # fmt: skip
def test_a_refusal_names_the_file(read, content, reason):
    with pytest.raises(BadSettings, match=re.escape(reason)):
        read(content)


def test_a_named_file_that_is_not_there_is_refused(read, monkeypatch, tmp_path):
    read(b"")
    monkeypatch.setenv("CDAM_SERVER", str(tmp_path / "none.toml"))
    _settings.settings.cache_clear()
    with pytest.raises(BadSettings, match=r"none\.toml cannot be read: No such file"):
        _settings.settings()


# ---- who listens ---------------------------------------------------------------------------------


def test_environment_variables_go_before_the_file(tmp_path, monkeypatch):
    names = ("CDAM_MODELS", "CDAM_ONLY_MODELS", "CDAM_FOLDERS", "CDAM_CONCEPTS", "CDAM_LIDC",
             "CDAM_DEVICE", "CDAM_HALF", "CDAM_MEGAPIXELS", "CDAM_RUNS")  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, "")  # as good as not set
    monkeypatch.setenv("CDAM_MODELS", "mine")
    _settings.hand_on(parse(
        f'[models]\nfolder = "{tmp_path}"\nonly = ["scenes", "timm:x"]\n'
        f'[folders]\npictures = ["{tmp_path}", "{ROOT}"]\nscans = "{ROOT}"\n'
        f'[computing]\ndevice = "cuda:1"\nhalf = true'
    ))  # fmt: skip
    assert {name: os.environ[name] for name in names} == {
        "CDAM_MODELS": "mine",
        "CDAM_ONLY_MODELS": "scenes,timm:x",
        "CDAM_FOLDERS": f"{tmp_path}{os.pathsep}{ROOT}",
        "CDAM_CONCEPTS": "",
        "CDAM_LIDC": str(ROOT),
        "CDAM_DEVICE": "cuda:1",
        "CDAM_HALF": "1",
        "CDAM_MEGAPIXELS": "40",
        "CDAM_RUNS": "",
    }


@pytest.mark.parametrize("wrong", ["0", "41", "2.5", "ten", "²"])
def test_a_variable_that_cannot_be_is_refused(wrong, monkeypatch):
    monkeypatch.setenv("CDAM_DEVICE", "cpu")  # or hand_on would set it, beyond this test
    monkeypatch.setenv("CDAM_MEGAPIXELS", wrong)
    with pytest.raises(BadSettings, match="CDAM_MEGAPIXELS must be a whole number from 1 to 40"):
        _settings.hand_on(Settings())
    with pytest.raises(ValueError, match="whole number of megapixels from 1 to 40"):
        images._allowed_pixels(wrong)


def test_everything_that_listens_to_a_variable_can_be_set_in_the_file():
    """A variable that is read somewhere and that ``hand_on`` does not know would be noticed."""
    files = [*(ROOT / "pages").rglob("*.py"), *(ROOT / "cdam_core").rglob("*.py")]
    read = {name for file in files
            for name in re.findall(r'"(CDAM_\w+)"', file.read_text("utf-8"))}  # fmt: skip
    handed = set(re.findall(r'"(CDAM_\w+)": ', (ROOT / "pages/_settings.py").read_text("utf-8")))
    assert read == handed | {_settings.VARIABLE}
    assert len(handed) == 9


def test_the_gate_is_as_the_administrator_decided():
    stated = parse("[computing]\ncores = 1\nwaiting = 9\njobs_per_user = 3\nwaiting_per_user = 4\n"
                   "patience_s = 5").computing  # fmt: skip
    assert Limits.stated(stated) == Limits(1, 9, 3, 4, 5)
    assert Limits.stated(Computing()) == Limits()
    assert Limits.stated(Computing(cores=1024)).cores == threads.cores()


# ---- the start -----------------------------------------------------------------------------------


def start(tmp_path, content, *options):
    """Start the server with these settings; it ends by itself where they are wrong."""
    file = tmp_path / "server.toml"
    file.write_text(content)
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true",
               "--server.port", "0", *options]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"CDAM_SERVER": str(file)})  # fmt: skip


@pytest.mark.parametrize(("content", "options", "reason"), [
    ("[uploads]\nfile_mb = -3", (), r".*server\.toml: uploads\.file_mb must be a whole number .*"),
    ("", ("--server.address", "0.0.0.0", "--browser.serverAddress", "localhost"),
     'access.identity = "open" asks nobody for a name, and the server would listen beyond .*'),
])  # fmt: skip
def test_the_server_does_not_start_and_says_why_in_one_line(tmp_path, content, options, reason):
    done = start(tmp_path, content, *options)
    assert done.returncode != 0
    said = done.stderr.strip()
    assert re.fullmatch(rf"CDAM Explorer does not start\. {reason}", said), said
