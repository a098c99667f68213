"""What ships for concepts: example pictures of held-out things, and scenes to look for them in."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cdam_core.assets import assets_dir
from pages._samples import Sample, samples


@dataclass(frozen=True)
class Series:
    """Example pictures of one thing that no bundled classifier has an output for.

    Attributes:
        id: name in the table.
        name: shown to people.
        ready: whether the app opens with a concept made of them.
        files: the pictures.
        credits: who drew them, under which licence.
    """

    id: str
    name: str
    ready: bool
    files: tuple[Path, ...]
    credits: str


def series() -> dict[str, Series]:
    """All series of example pictures by id; empty where none are installed."""
    return _table()[0]


def scenes() -> dict[str, Sample]:
    """Scenes that show the things of the series, then the ordinary sample scenes."""
    return _table()[1] | {f"sample:{name}": sample for name, sample in samples().items()}


@cache
def _table() -> tuple[dict[str, Series], dict[str, Sample]]:
    folder = assets_dir() / "concepts"
    try:
        table = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, {}
    rows = [_series(folder, row) for row in table["concepts"]]
    found = [_scene(folder, row) for row in table["scenes"]]
    return ({row.id: row for row in rows if row.files},
            {scene.id: scene for scene in found if scene.file.is_file()})  # fmt: skip


def _series(folder: Path, row: dict) -> Series:
    files = tuple(folder / name for name in row["files"] if (folder / name).is_file())
    return Series(row["id"], row["name"], bool(row["ready"]), files, row["credits"])


def _scene(folder: Path, row: dict) -> Sample:
    return Sample(row["id"], row["title"], folder / row["file"], folder / row["mask"],
                  tuple(row["objects"]), "; ".join(row["credits"]))  # fmt: skip
