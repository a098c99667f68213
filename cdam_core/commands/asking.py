"""What several commands ask for: pictures, targets, settings, and how maps are drawn."""

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdam_core import devices
from cdam_core.architectures import takes_any_size
from cdam_core.concepts import Concept, load_concept
from cdam_core.errors import BadImage, BadTarget
from cdam_core.images import FITS
from cdam_core.models import VisionModel, load_model
from cdam_core.pictures import DEFAULT_PALETTE, PALETTES
from cdam_core.targets import Contrast

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")


# ---- options -------------------------------------------------------------------------------------


def add_source(command: argparse.ArgumentParser, others: str = "", told: str = "") -> None:
    """The pictures; what else a command takes is added to how they are written and told."""
    command.add_argument(
        "source", type=Path, metavar=f"IMAGE|FOLDER|TABLE.csv{others}",
        help=f"an image, a folder of images, or a table with the columns image and target{told}",
    )  # fmt: skip


def add_question(command: argparse.ArgumentParser, default_targets: str) -> None:
    """Model, targets and settings."""
    add_model(command)
    command.add_argument(
        "--target", action="append", default=[], metavar="CLASS",
        help="class name or index; A~B contrasts two; may be repeated "
        f"(default: {default_targets})",
    )  # fmt: skip
    command.add_argument(
        "--concept", action="append", default=[], metavar="FILE",
        help="a saved concept; FILE~FILE contrasts two; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the method; may be repeated",
    )  # fmt: skip
    command.add_argument("--fit", default="pad", choices=FITS, help="how an image becomes square")


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model, and where and how it computes; ``load`` reads it."""
    command.add_argument("--model", default="scenes", help="see 'models' (default: scenes)")
    command.add_argument("--size", type=int, metavar="PIXELS",
                         help="side of the input (default: the model's own)")  # fmt: skip
    command.add_argument("--pool", choices=("token", "avg"),
                         help="how the answer is read (default: as the model is made)")  # fmt: skip
    command.add_argument("--device", default=devices.AUTO,
                         help="auto, cpu, cuda, ... (default: auto)")  # fmt: skip
    command.add_argument("--half", action="store_true",
                         help="16 bits before the last block; for graphics cards")  # fmt: skip


def load(options: argparse.Namespace) -> VisionModel:
    """The model that ``add_model`` asked for."""
    size = None if options.size is None else (options.size, options.size)
    model = load_model(options.model, pool=options.pool)
    if size is not None and takes_any_size(model.module):
        model = model.at_size(size)
    elif size is not None:
        model = load_model(options.model, size, options.pool)
    return model.on(options.device, options.half)


def add_look(command: argparse.ArgumentParser) -> None:
    """How maps are drawn."""
    command.add_argument(
        "--palette", default=DEFAULT_PALETTE,
        choices=[name for name, palette in PALETTES.items() if palette.signed],
    )  # fmt: skip
    command.add_argument("--smooth", action="store_true", help="interpolate between patches")


# ---- pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One picture; ``targets`` may be empty."""

    image: Path
    name: str
    targets: tuple[str, ...]


def jobs(source: Path, targets: tuple[str, ...]) -> list[Job]:
    """The images that a path stands for, in a fixed order, with unique names.

    Raises:
        BadImage: an empty folder, or a table that is none.
    """
    return list(_jobs(source, targets))


def _jobs(source: Path, targets: tuple[str, ...]) -> Iterator[Job]:
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise BadImage("unreadable", "The folder holds no images; expected files ending in "
                           f"{', '.join(IMAGE_SUFFIXES)}.")  # fmt: skip
        rows = [(path, targets) for path in paths]
    elif source.suffix.lower() == ".csv":
        rows = list(_table(source, targets))
    else:
        rows = [(source, targets)]
    used: set[str] = set()
    for path, wanted in rows:
        name, copies = path.stem, 1
        while name.casefold() in used:  # folders of some systems do not tell capitals apart
            copies += 1
            name = f"{path.stem}-{copies}"
        used.add(name.casefold())
        yield Job(path, name, wanted)


def _table(source: Path, targets: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    try:
        rows = list(csv.DictReader(io.StringIO(source.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise BadImage("unreadable", "The table is not readable; expected a CSV file in UTF-8 with "
                       "the columns image and target.") from None  # fmt: skip
    if not rows or "image" not in rows[0]:
        raise BadImage("unreadable", "The table has no rows or no column 'image'; expected the "
                       "columns image and, if wanted, target.")  # fmt: skip
    for row in rows:
        own = (row["target"],) if row.get("target") else ()
        yield source.parent / (row["image"] or ""), own or targets


# ---- targets and settings ------------------------------------------------------------------------


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as JSON where it is some."""
    name, equals, value = text.partition("=")
    if not equals:
        raise BadTarget("bad-setting", "A setting without '=' arrived; expected NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def target(text: str) -> int | str | Contrast:
    """A class, or two with ~ between them."""
    first, contrast, second = text.partition("~")
    return Contrast(_class(first), _class(second)) if contrast else _class(text)


def _class(text: str) -> int | str:
    return int(text) if text.strip().isascii() and text.strip().isdigit() else text.strip()


def concepts(texts: Sequence[str]) -> tuple[Concept | Contrast, ...]:
    """Saved concepts, each file read once."""
    read: dict[str, Concept] = {}

    def one(path: str) -> Concept:
        if path not in read:
            read[path] = load_concept(Path(path))
        return read[path]

    pairs = [text.partition("~") for text in texts]
    return tuple(Contrast(one(a), one(b)) if contrast else one(a) for a, contrast, b in pairs)
