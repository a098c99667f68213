"""What can be taken home from the page "Lung nodules": a picture of all maps, and the scores."""

from functools import partial

import streamlit as st

from cdam_core import archive
from cdam_core.nodules import BIOMARKERS
from cdam_core.pictures import Tile, map_tile, shared_scale, tiles
from pages import _downloads, _panels
from pages._nodules_case import MALIGNANCY, MARKERS, OWN
from pages._nodules_maps import Seen, marker_scales
from pages._nodules_slices import WINDOWS, slice_picture
from pages._nodules_words import stamp, value_text
from pages._words import signed

PAGE = "nodules"  # start of the keys of the widgets
COLUMNS = 5  # pictures in a line


def offer(seen: Seen, pair: tuple[str, str]) -> None:
    """A row of buttons."""
    st.subheader("Take home", anchor=False)
    _downloads.buttons(PAGE, name_parts(seen), (
        ("Picture (PNG)", "png", "image/png", partial(png, seen)),
        ("Scores (NPZ)", "zip", "application/zip", partial(scores, seen, pair)),
    ))  # fmt: skip


def name_parts(seen: Seen) -> list[str]:
    """What the name of a file says: never anything of a visitor's own file."""
    case = seen.case
    which = OWN if case.nodule is None else f"nodule-{case.nodule.id}"
    kind = {"phantom": "simulated", "dicom": "research-use-only", "own": "research-use-only"}
    return ["cdam_nodules", which, kind[case.source]]


def png(seen: Seen) -> bytes:
    """The slice, what the models saw, and every map with its scale."""
    markers, malignancy = seen.answer.markers, seen.malignancy()
    look, prepared = seen.look, seen.prepared(MALIGNANCY)
    scale = shared_scale(malignancy)
    _, picture = _panels.pictures_of(prepared, malignancy, look, scale)
    title = f"{malignancy.labels[0]}\nlogit {signed(malignancy.values[0])}"
    found: list[Tile] = [
        Tile(slice_picture(seen.case, seen.plane, WINDOWS["Lung"]), "Lung window −600/1500"),
        Tile(prepared.view, "What the models saw\n−1000 to 400 HU"),
        map_tile(picture, malignancy, scale, title, look.palette),
    ]
    for index, ends in enumerate(marker_scales(markers)):
        one = _panels.only(markers, [index])
        _, picture = _panels.pictures_of(prepared, one, look, ends)
        title = f"{BIOMARKERS[index]}\n{value_text(BIOMARKERS[index], markers.values[index])}"
        found.append(map_tile(picture, one, ends, title, look.palette))
    lines = [found[:3], found[3:7], found[7:]]
    note = f"{stamp(seen.case.source)} · every map on a scale of its own · not for clinical use"
    return tiles(lines, f"CDAM, models {MALIGNANCY} and {MARKERS}", True, note=note)


def scores(seen: Seen, pair: tuple[str, str]) -> bytes:
    """Scores of all outputs as NPZ and CSV, by model, in one ZIP."""
    members = {}
    for model_id in (MALIGNANCY, MARKERS):
        explanation = seen.answer.explanation(model_id)
        members[f"{model_id}.npz"] = explanation.to_npz()
        members[f"{model_id}.csv"] = explanation.to_csv().encode()
    if pair[0] != pair[1]:
        members["compared.csv"] = seen.compared(*pair).to_csv().encode()
    return archive.pack(members)
