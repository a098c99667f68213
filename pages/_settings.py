"""What the administrator decides: ``server.toml``, read once, and refused at start if it is wrong.

Every setting is a field below with its default and with what a value must be. Other modules ask
``settings()``; the file is read nowhere else. What listens to an environment variable (the library
and some pages) goes on to do so, and finds the file's value there (``hand_on``).
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "CDAM_SERVER"  # names another file
FILE = Path(__file__).parent.parent / "server.toml"

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


def option(default: Any, check: Check) -> Any:
    """One setting."""
    return field(default=default, metadata={"check": check})


# ---- the settings; each with what it does in server.toml -----------------------------------------


@dataclass(frozen=True)
class Uploads:
    """What may come in."""

    file_mb: int = option(20, count(1, 20))
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


@dataclass(frozen=True)
class Log:
    """How the log is written."""

    format: str = option("text", one_of("text", "json"))


@dataclass(frozen=True)
class Settings:
    """All of ``server.toml``."""

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
    return Settings(**{name: _section(name, kinds[name], stated[name]) for name in stated})


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
    except BadSettings as error:
        raise SystemExit(f"CDAM Explorer does not start. {error}") from None
    hand_on(found)
    return found


def hand_on(found: Settings) -> None:
    """Tell those who listen to environment variables; a variable that is set goes first."""
    stated = {
        "CDAM_MODELS": found.models.folder,
        "CDAM_ONLY_MODELS": ",".join(found.models.only),
        "CDAM_FOLDERS": os.pathsep.join(found.folders.pictures),
        "CDAM_CONCEPTS": found.folders.concepts,
        "CDAM_LIDC": found.folders.scans,
        "CDAM_DEVICE": found.computing.device,
        "CDAM_HALF": "1" if found.computing.half else "",
    }
    for name, value in stated.items():
        if value and not os.environ.get(name, "").strip():
            os.environ[name] = value
