"""What can be taken home from the page "Lung nodules": reports, a picture, and the scores."""

from functools import partial

import streamlit as st

from cdam_core import archive
from cdam_core import report as pdf
from cdam_core.nodules import BIOMARKERS
from cdam_core.nodules.card import BANNER
from cdam_core.nodules.crops import PIXEL_MM, SIDE
from cdam_core.pictures import Tile, map_tile, shared_scale, tiles
from cdam_core.provenance import Drawing
from pages import _downloads, _exports, _panels
from pages._gate import slot
from pages._nodules_case import MALIGNANCY, MARKERS, OWN
from pages._nodules_maps import Seen, familiarity, marker_scales
from pages._nodules_slices import WINDOWS, model_of, slice_picture, with_ruler
from pages._nodules_words import HOW_TO_READ, malignancy_sentence, stamp, value_text
from pages._nodules_words import REAL_BANNERS as BANNERS
from pages._words import signed

PAGE = "nodules"  # start of the keys of the widgets


def offer(seen: Seen, pair: tuple[str, str]) -> None:
    """A row of buttons."""
    st.subheader("Take home", anchor=False)
    paper = _exports.paper_size()
    for model_id, what in ((MALIGNANCY, "malignancy"), (MARKERS, "biomarkers")):
        _downloads.buttons(f"{PAGE}.{what}", [*name_parts(seen), what], (
            (f"Report: {what} (PDF)", "pdf", "application/pdf",
             partial(report, seen, model_id, paper)),
        ))  # fmt: skip
    _downloads.buttons(PAGE, name_parts(seen), (
        ("Picture (PNG)", "png", "image/png", partial(png, seen)),
        ("Scores (ZIP)", "zip", "application/zip", partial(scores, seen, pair)),
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


def report(seen: Seen, model_id: str, paper: str = "A4") -> bytes:
    """One page about malignancy, or about the eight biomarkers; runs in a thread without a page."""
    case, nodule, is_malignancy = seen.case, seen.case.nodule, model_id == MALIGNANCY
    model, prepared = model_of(model_id), seen.prepared(model_id)
    explanation = seen.malignancy() if is_malignancy else seen.answer.markers
    scales = (shared_scale(explanation),) if is_malignancy else tuple(marker_scales(explanation))
    look, whose = seen.look, "your own crop" if nodule is None else f"nodule {nodule.id}"
    said = [f"{BANNERS.get(case.source, '')} {BANNER}".strip(), *case.notes,
            f"The slice is {seen.plane.axis}, {seen.plane.offset:+.1f} mm from the middle."]
    if known := familiarity(seen):
        said.append(known[1])
    measures = {} if nodule is None or is_malignancy else {
        "readers": [nodule.biomarkers[name] for name in BIOMARKERS],
        "readers' SD": [float(nodule.by_reader(name).std(ddof=1)) for name in BIOMARKERS],
    }  # fmt: skip
    if is_malignancy:
        said.append(malignancy_sentence(seen.answer.malignancy, nodule)
                    .replace("*", "").replace("\\", ""))  # fmt: skip
    drawing = Drawing(look.palette, look.opacity, look.smooth, scales=(scales,),
                      outlines=prepared.outlines if look.outlines else None)  # fmt: skip
    picture = with_ruler(prepared.view, prepared.view.width / (SIDE * PIXEL_MM))
    with slot():
        return pdf.report(
            model, seen.answer.image, [explanation], logits=prepared.logits, drawing=drawing,
            measures=measures, page=paper, picture=picture, said=said,
            reading=() if is_malignancy else reading(),
            question=f"What speaks for {seen.look.target} in {whose}?" if is_malignancy
            else f"Eight biomarkers of {whose}",
            stamp=(stamp(case.source), "Not for clinical use; the models know simulated CT alone."),
        )  # fmt: skip


def reading() -> list[str]:
    """A sentence per biomarker."""
    return [f"{name}: {HOW_TO_READ[name]}" for name in BIOMARKERS]


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
