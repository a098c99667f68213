"""The sample scenes that ship with the app: pictures, masks of their objects, credits."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from cdam_core.assets import assets_dir


@dataclass(frozen=True)
class Sample:
    """One sample scene.

    Attributes:
        id: name in addresses and in the table.
        title: shown to people.
        file: the picture.
        mask: object numbers 1, 2, ... as grey values, or None.
        objects: class names of the objects, in the order of their numbers.
        credits: who drew it, under which licence.
    """

    id: str
    title: str
    file: Path
    mask: Path | None
    objects: tuple[str, ...]
    credits: str

    def read_mask(self) -> np.ndarray | None:
        """(H, W) uint8 object numbers, 0 for the background."""
        if self.mask is None:
            return None
        with Image.open(self.mask) as file:
            return np.asarray(file).astype(np.uint8)


@cache
def samples() -> dict[str, Sample]:
    """All samples by id, in the order of their table; empty where none are installed."""
    folder = assets_dir() / "scenes"
    try:
        table = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    rows = table["samples"] if isinstance(table, dict) else table
    found = (_sample(folder, row) for row in rows)
    return {sample.id: sample for sample in found if sample.file.is_file()}


def _sample(folder: Path, row: dict) -> Sample:
    mask = folder / row["mask"] if row.get("mask") else None
    credit = row.get("credits", "")
    return Sample(
        row["id"],
        row["title"],
        folder / row["file"],
        mask if mask and mask.is_file() else None,
        tuple(row.get("objects", ())),
        credit if isinstance(credit, str) else "; ".join(map(str, credit)),
    )
