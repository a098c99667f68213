"""What the administrator decides: ``server.toml``, read once, and refused at start if it is wrong.

Every setting is a field below with its default and with what a value must be. Other modules ask
``settings()``; the file is read nowhere else. What listens to an environment variable (the library
and some pages) goes on to do so, and finds the file's value there (``hand_on``).
"""

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "CDAM_SERVER"  # names another file
FILE = Path(__file__).parent.parent / "server.toml"
MIN_SECRET = 32  # characters of the secret that signs cookies
CALLBACK = "/oauth2callback"  # where Streamlit takes an identity provider's answer

Check = Callable[[Any], Any]  # takes a value, returns what is kept; ValueError says what it must be


class BadSettings(Exception):
    """The server must not start like this; the message says which setting and why."""


# ---- what a value must be ------------------------------------------------------------------------


def number(low: float, high: float) -> Check:
    """A number within bounds, both included."""

    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"a number from {low} to {high}")
        return value

    return check


def count(low: int, high: int) -> Check:
    """A whole number within bounds, both included."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError("one of " + ", ".join(f'"{word}"' for word in words))
        return value

    return check


def switch(value: Any) -> bool:
    """On or off."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def text(value: Any) -> str:
    """One line, without spaces around it."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("a text of one line")
    return value.strip()


def texts(value: Any) -> tuple[str, ...]:
    """Lines, empty ones left out."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("a list of texts")
    return tuple(found for each in value if (found := text(each)))


def folder(value: Any) -> str:
    """A folder that exists, or nothing."""
    name = text(value)
    if name and not Path(name).expanduser().is_dir():
        raise ValueError("an existing folder")
    return name


def folders(value: Any) -> tuple[str, ...]:
    """Folders that exist."""
    return tuple(folder(each) for each in texts(value))


def device(value: Any) -> str:
    """A name of PyTorch's for what computes; whether it is here, only loading a model tells."""
    name = text(value)
    if not re.fullmatch(r"[a-z]+(:\d+)?", name):
        raise ValueError('"auto", "cpu", "cuda" or another name of PyTorch\'s')
    return name


def header(value: Any) -> str:
    """The name of a header."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", value):
        raise ValueError("the name of a header: letters, digits and hyphens")
    return value


def networks(value: Any) -> tuple[str, ...]:
    """Addresses of computers, or of networks of them."""
    found = texts(value)
    try:
        return tuple(str(ipaddress.ip_network(each)) for each in found)
    except ValueError:
        raise ValueError('a list of addresses such as "127.0.0.1" or "10.1.0.0/16"') from None


def address(value: Any) -> str:
    """An address on the web; without https only on this computer."""
    name = text(value)
    if name and not re.match(r"https://\w|http://(localhost|127\.0\.0\.1)[:/]", name):
        raise ValueError("an address that begins with https://")
    return name


def secret_file(value: Any) -> str:
    """A file with a secret, which nobody but its owner may read."""
    name = text(value)
    path = Path(name)
    if name and not path.is_file():
        raise ValueError("an existing file")
    if name and os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError("a file that its owner alone may read (chmod 600)")
    return name


def option(default: Any, check: Check) -> Any:
    """One setting."""
    return field(default=default, metadata={"check": check})


# ---- the settings; each with what it does in server.toml -----------------------------------------


@dataclass(frozen=True)
class Access:
    """Who may come in, and how they are known."""

    identity: str = option("open", one_of("open", "proxy", "oidc"))
    open_to_network: bool = option(False, switch)
    user_header: str = option("X-Remote-User", header)
    trusted_proxies: tuple[str, ...] = option(("127.0.0.1/32", "::1/128"), networks)
    allowed: tuple[str, ...] = option((), texts)
    administrators: tuple[str, ...] = option((), texts)


@dataclass(frozen=True)
class Oidc:
    """The organisation's identity provider."""

    metadata_url: str = option("", address)
    client_id: str = option("", text)
    client_secret_file: str = option("", secret_file)
    cookie_secret_file: str = option("", secret_file)
    redirect_uri: str = option("", address)
    claim: str = option("email", text)
    session_hours: float = option(12, number(0.1, 720))


@dataclass(frozen=True)
class Uploads:
    """What may come in."""

    file_mb: int = option(20, count(1, 20))
    session_mb: int = option(200, count(1, 100_000))
    minute_mb: int = option(300, count(1, 100_000))
    all_mb: int = option(1000, count(1, 1_000_000))
    megapixels: int = option(40, count(1, 40))
    concept_images: int = option(24, count(1, 200))


@dataclass(frozen=True)
class Computing:
    """How much is computed at once, and where."""

    cores: int = option(0, count(0, 1024))
    waiting: int = option(40, count(1, 10_000))
    jobs_per_user: int = option(2, count(1, 1024))
    waiting_per_user: int = option(6, count(1, 1000))
    patience_s: float = option(120, number(1, 3600))
    cache_mb: float = option(512, number(0, 100_000))
    stop_s: float = option(30, number(0, 3600))
    device: str = option("auto", device)
    half: bool = option(False, switch)


@dataclass(frozen=True)
class Visits:
    """When a visit is forgotten."""

    keep_closed_s: float = option(60, number(1, 86_400))
    keep_idle_min: float = option(480, number(0.05, 1380))


@dataclass(frozen=True)
class Models:
    """Which models are offered."""

    folder: str = option("", folder)
    only: tuple[str, ...] = option((), texts)


@dataclass(frozen=True)
class Folders:
    """Folders of this computer that visitors may use."""

    pictures: tuple[str, ...] = option((), folders)
    concepts: str = option("", folder)
    scans: str = option("", folder)
    runs: str = option("", folder)


@dataclass(frozen=True)
class Log:
    """How the log is written."""

    format: str = option("text", one_of("text", "json"))


@dataclass(frozen=True)
class Settings:
    """All of ``server.toml``."""

    access: Access = Access()
    oidc: Oidc = Oidc()
    uploads: Uploads = Uploads()
    computing: Computing = Computing()
    visits: Visits = Visits()
    models: Models = Models()
    folders: Folders = Folders()
    log: Log = Log()


# ---- reading -------------------------------------------------------------------------------------


def parse(content: str) -> Settings:
    """The settings that a ``server.toml`` states; what it leaves out is as by default.

    Raises:
        BadSettings: naming the setting and what it must be.
    """
    try:
        stated = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"it is no TOML: {error}.") from None
    kinds = {each.name: type(each.default) for each in fields(Settings)}
    for name in stated:
        if name not in kinds:
            raise BadSettings(f"[{name}] is not known; expected one of {_list(kinds)}.")
    found = Settings(**{name: _section(name, kinds[name], stated[name]) for name in stated})
    _require_sense(found.access, found.oidc)
    _require_room(found.uploads)
    return found


def _section(name: str, kind: type, stated: Any) -> Any:
    if not isinstance(stated, dict):
        raise BadSettings(f"{name} must be a section: [{name}].")
    checks = {each.name: each.metadata["check"] for each in fields(kind)}
    found = {}
    for key, value in stated.items():
        if key not in checks:
            raise BadSettings(f"{name}.{key} is not known; [{name}] has {_list(checks)}.")
        try:
            found[key] = checks[key](value)
        except ValueError as error:
            raise BadSettings(f"{name}.{key} must be {error}.") from None
    return kind(**found)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _require_sense(access: Access, oidc: Oidc) -> None:
    """Refuse what no single value shows."""
    is_listed = bool(access.allowed or access.administrators)
    if access.identity != "open" and not is_listed:
        raise BadSettings(
            f'access.allowed is empty, and identity = "{access.identity}" would let nobody in; '
            'name them, or "*" for all who are known by name.'
        )
    if access.identity == "open" and is_listed:
        raise BadSettings(
            'access.allowed and access.administrators need names, and identity = "open" knows '
            'none; choose "proxy" or "oidc".'
        )
    if access.identity == "proxy" and not access.trusted_proxies:
        raise BadSettings("access.trusted_proxies is empty, so nobody could come in.")
    if access.identity == "oidc":
        _require_provider(oidc)


def _require_provider(oidc: Oidc) -> None:
    for each in fields(Oidc):
        if not getattr(oidc, each.name):
            raise BadSettings(f'oidc.{each.name} is needed for identity = "oidc".')
    if len(secret(oidc.cookie_secret_file)) < MIN_SECRET:
        raise BadSettings(f"oidc.cookie_secret_file must hold {MIN_SECRET} characters or more.")
    if not oidc.redirect_uri.endswith(CALLBACK):
        raise BadSettings(f"oidc.redirect_uri must end with {CALLBACK}.")


def _require_room(uploads: Uploads) -> None:
    for name in ("session_mb", "minute_mb", "all_mb"):
        if getattr(uploads, name) < uploads.file_mb:
            raise BadSettings(f"uploads.{name} is smaller than uploads.file_mb, so that no such "
                              "file could ever arrive; make it larger.")  # fmt: skip


def secret(file: str) -> str:
    """What a file of a secret holds, without the line's end.

    Raises:
        BadSettings: it cannot be read.
    """
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise BadSettings(f"{file} cannot be read as text; expected a secret in it.") from None


@cache
def settings() -> Settings:
    """The settings of this server.

    Raises:
        BadSettings: naming the file.
    """
    stated = os.environ.get(VARIABLE, "").strip()
    path = Path(stated).expanduser() if stated else FILE
    if not stated and not path.is_file():
        return Settings()
    try:
        return parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadSettings(f"{path} cannot be read: {reason}.") from None
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}") from None


# ---- at start ------------------------------------------------------------------------------------


def start() -> Settings:
    """Read the settings and hand them on, before anything else is loaded.

    Raises:
        SystemExit: with one sentence, where the server must not start.
    """
    try:
        found = settings()
        hand_on(found)
    except BadSettings as error:
        raise SystemExit(f"CDAM Explorer does not start. {error}") from None
    return found


def hand_on(found: Settings) -> None:
    """Tell those who listen to environment variables; a variable that is set goes first.

    Raises:
        BadSettings: a variable is set to what it cannot be.
    """
    stated = {
        "CDAM_MEGAPIXELS": str(found.uploads.megapixels),
        "CDAM_MODELS": found.models.folder,
        "CDAM_ONLY_MODELS": ",".join(found.models.only),
        "CDAM_FOLDERS": os.pathsep.join(found.folders.pictures),
        "CDAM_CONCEPTS": found.folders.concepts,
        "CDAM_LIDC": found.folders.scans,
        "CDAM_RUNS": found.folders.runs,
        "CDAM_DEVICE": found.computing.device,
        "CDAM_HALF": "1" if found.computing.half else "",
    }
    for name, value in stated.items():
        if value and not os.environ.get(name, "").strip():
            os.environ[name] = value
    pixels = os.environ["CDAM_MEGAPIXELS"].strip()
    if not (pixels.isascii() and pixels.isdigit() and 1 <= int(pixels) <= 40):
        raise BadSettings("The environment variable CDAM_MEGAPIXELS must be a whole number from 1 "
                          "to 40.")  # fmt: skip


if __name__ == "__main__":
    start()
    print("These settings are in order.")
