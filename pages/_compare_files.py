"""Files of the comparison of two models: both explanations in each, named by model."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core import archive
from cdam_core.methods import METHODS
from cdam_core.pictures import Tile, map_tile, tiles
from pages import _downloads, _exports, _panels, _state
from pages._words import file_name, signed

PAGE = "pair"  # start of the keys of the widgets


def offer(sides: Sequence[Any], picture: _state.Picture, look: _panels.Look) -> None:
    """What can be taken home.

    Args:
        sides: ``_compare_pair.Side``; those without maps are left out.
        picture: the visitor's.
        look: how maps are drawn.
    """
    sides = [side for side in sides if side.explanation is not None]
    shown = [_panels.Shown("compare", side.model, picture, side.prepared, side.explanation,
                           side.drawn, look, side.scale) for side in sides]  # fmt: skip
    names = stems([side.model_id for side in sides])
    parts = name_parts(shown, names)
    with_image = False
    if picture.sample is None:
        with_image = st.toggle(
            "With my picture", key=f"{PAGE}.with_image",
            help="Put your picture into the ZIP. Without it, the ZIP holds the maps on plain grey "
            "and a digest of the picture.",
        )  # fmt: skip
    parcels = [_exports.parcel_of(each, with_image=with_image) for each in shown]
    _downloads.buttons(PAGE, parts, (
        ("Picture (PNG)", "png", "image/png", partial(png, sides, shown)),
        ("Scores (NPZ)", "npz", "application/octet-stream", partial(npz, shown, names)),
        ("Scores (CSV)", "csv", "text/csv", partial(csv, shown, names)),
        ("All of it, to be checked (ZIP)", "zip", "application/zip",
         partial(zip_of_both, parcels, names)),
    ))  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        for number, (side, name, parcel) in enumerate(zip(sides, names, parcels, strict=True)):
            _downloads.buttons(f"{PAGE}.{number}", [*parts[:1], name, *parts[1 + len(names):]], (
                (f"Report: {side.label} (PDF)", "pdf", "application/pdf",
                 partial(_exports.paper_report, parcel, _exports.paper_size())),
            ))  # fmt: skip
        _exports.offer_ways_back(PAGE, parcels)


def stems(sources: Sequence[str]) -> list[str]:
    """A name for each model that fits into names of files, no two alike."""
    found: list[str] = []
    for source in sources:
        name = file_name([source.removeprefix("timm:")], "x").removesuffix(".x") or "model"
        found.append(name if name not in found else f"{name}-2")
    return found


def name_parts(shown: Sequence[_panels.Shown], names: Sequence[str]) -> list[str]:
    """As for one model, with both models in place of the one."""
    (first, _, *rest), simulated = _downloads.name_parts(shown[0]), "simulated"
    rest = [part for part in rest if part != simulated]
    stamp = [simulated] if any(each.explanation.simulated for each in shown) else []
    return [first, *names, *rest, *stamp]


# ---- contents, made in threads without a page ----------------------------------------------------


def png(sides: Sequence[Any], shown: Sequence[_panels.Shown]) -> bytes:
    """A line per model: what it saw and its maps, with its scale under each."""
    lines = []
    for side, each in zip(sides, shown, strict=True):
        look, drawn = each.look, each.drawn
        view, *pictures = _panels.pictures_of(each.prepared, drawn, look, each.scale)
        line = [Tile(view, f"{side.label}\nWhat it saw")]
        for index, (label, picture) in enumerate(zip(drawn.labels, pictures, strict=True)):
            what = "one map for every class"
            if METHODS[drawn.method].class_specific:
                what = f"value {signed(drawn.values[index])}"
            title = f"{label}\n{what}"
            line.append(map_tile(picture, drawn, each.scale, title, look.palette))
        lines.append(line)
    simulated = any(each.explanation.simulated for each in shown)
    note = "each model on a scale of its own: colours of different models do not compare"
    return tiles(lines, METHODS[shown[0].drawn.method].label, simulated, note=note)


def npz(shown: Sequence[_panels.Shown], names: Sequence[str]) -> bytes:
    """The arrays of ``Explanation.to_npz``, each with its model's name and a dot before it."""
    arrays = {}
    for name, each in zip(names, shown, strict=True):
        with np.load(io.BytesIO(each.explanation.to_npz()), allow_pickle=False) as found:
            arrays |= {f"{name}.{key}": found[key] for key in found.files}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def csv(shown: Sequence[_panels.Shown], names: Sequence[str]) -> str:
    """One table; what made each model's numbers stands above it."""
    tables = [_named(each.explanation, name).to_csv().split("\n", 2)
              for each, name in zip(shown, names, strict=True)]  # fmt: skip
    return "\n".join([*(made for made, _, _ in tables), tables[0][1],
                      "".join(lines for _, _, lines in tables)])  # fmt: skip


def _named(explanation: cdam.Explanation, name: str) -> cdam.Explanation:
    """The same under the name that tells the two models apart."""
    return replace(explanation, model_id=name)


def zip_of_both(parcels: Sequence[_exports.Parcel], names: Sequence[str]) -> bytes:
    """A ZIP that can be checked, per model, in one."""
    return archive.pack({f"{name}.zip": _exports.pack(parcel)
                         for name, parcel in zip(names, parcels, strict=True)})  # fmt: skip
