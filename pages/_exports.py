"""What leaves the app so that somebody else can check it: ZIP, report, code, and address.

Files are made when they are asked for, behind the same gate as all computing. Of a visitor's own
picture the ZIP holds the digest of its pixels alone, unless the visitor wants it in; the report
shows it, as it is meant to. Its file name is known to nobody here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import urlencode, urlsplit

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core import provenance
from cdam_core.assets import assets_dir
from cdam_core.provenance import Drawing
from cdam_core.report import report
from pages import _downloads, _links
from pages._gate import slot
from pages._panels import Look, Shown
from pages._state import Picture, Prepared

LETTER = ("US", "CA", "MX", "CL", "CO", "CR", "PA", "PH", "PR", "VE", "GT", "SV", "NI", "DO")


@dataclass(frozen=True, eq=False)
class Parcel:
    """All that a file to take home is made of.

    Attributes:
        page: start of the keys of its widgets.
        name: parts of the files' names.
        model: that was asked.
        picture: the visitor's.
        logits: (C,) of the picture.
        explanations: as the library gave them.
        drawing: how they are shown.
        regions: drawn on the picture.
        with_image: put the picture into the ZIP.
        measures: name -> number per map, for the report; NaN where it is not known.
    """

    page: str
    name: Sequence[str]
    model: cdam.VisionModel
    picture: Picture
    logits: np.ndarray
    explanations: Sequence[cdam.Explanation]
    drawing: Drawing
    regions: Sequence[cdam.Region] = ()
    with_image: bool = False
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)


def offer(shown: Shown, regions: Sequence[cdam.Region] = ()) -> None:
    """Report, ZIP, code and address of what a page shows."""
    offer_parcel(parcel_of(shown, regions))


def parcel_of(
    shown: Shown, regions: Sequence[cdam.Region] = (), with_image: bool = False
) -> Parcel:
    """What a page shows, as it is packed."""
    ends = (shown.scale,) * len(shown.explanation.labels)
    summed = shown.drawn.scores.shape != shown.explanation.scores.shape
    return Parcel(
        shown.page, _downloads.name_parts(shown), shown.model, shown.picture,
        shown.prepared.logits, [shown.explanation],
        drawing(shown.prepared, shown.look, summed, (ends,)), regions, with_image,
    )  # fmt: skip


def drawing(
    prepared: Prepared, look: Look, summed: bool, scales: tuple[tuple[float, ...], ...]
) -> Drawing:
    """How a page draws, for the library."""
    outlines = prepared.outlines if look.outlines else None
    return Drawing(look.palette, look.opacity, look.smooth, summed, scales, outlines)


def offer_parcel(parcel: Parcel) -> None:
    """One row: what to take home, and how to come back."""
    paper = paper_size()
    with st.container(horizontal=True, vertical_alignment="center"):
        if parcel.picture.sample is None:
            with_image = st.toggle(
                "With my picture", key=f"{parcel.page}.with_image",
                help="Put your picture into the ZIP. Without it, the ZIP holds the maps on plain "
                "grey and a digest of the picture, so it can be checked by whoever has it.",
            )  # fmt: skip
            parcel = replace(parcel, with_image=with_image)
        _downloads.buttons(parcel.page, parcel.name, (
            ("Report (PDF)", "pdf", "application/pdf", partial(paper_report, parcel, paper)),
            ("All of it, to be checked (ZIP)", "zip", "application/zip", partial(pack, parcel)),
        ))  # fmt: skip
        offer_ways_back(parcel.page, [parcel])


def paper_size() -> str:
    """What the visitor's printer probably holds."""
    return "Letter" if (st.context.locale or "")[-2:].upper() in LETTER else "A4"


def offer_ways_back(page: str, parcels: Sequence[Parcel]) -> None:
    """Code for each parcel, and the address of what is shown."""
    with _drawer("Copy as Python", "code", page) as drawer:
        if drawer.open:
            for parcel in parcels:
                st.code(code(parcel), language="python")
            _explain_code(parcels[0])
    with _drawer("Permalink", "link", page) as drawer:
        if drawer.open:
            _show_address(parcels[0])


def _drawer(label: str, icon: str, page: str):
    return st.popover(label, icon=f":material/{icon}:", key=f"{page}.{icon}",
                      on_change="rerun")  # fmt: skip


# ---- files ---------------------------------------------------------------------------------------


def sample_path(picture: Picture) -> str | None:
    """Where a bundled sample lies below the assets; None for a visitor's own picture."""
    if picture.sample is None:
        return None
    return picture.sample.file.relative_to(assets_dir()).as_posix()


def pack(parcel: Parcel) -> bytes:
    """The ZIP; runs in a thread without a page."""
    with slot():
        return provenance.pack(
            parcel.model, parcel.picture.image, parcel.explanations, drawing=parcel.drawing,
            regions=parcel.regions, sample=sample_path(parcel.picture),
            with_image=parcel.with_image,
        )  # fmt: skip


def paper_report(parcel: Parcel, paper: str = "A4") -> bytes:
    """The PDF; runs in a thread without a page."""
    with slot():
        return report(
            parcel.model, parcel.picture.image, parcel.explanations, logits=parcel.logits,
            drawing=parcel.drawing, regions=parcel.regions, measures=parcel.measures, page=paper,
        )  # fmt: skip


# ---- code and address ----------------------------------------------------------------------------


def code(parcel: Parcel) -> str:
    """Python that computes what is shown."""
    record = provenance.describe(
        parcel.model, parcel.picture.image, parcel.explanations, drawing=parcel.drawing,
        sample=sample_path(parcel.picture),
    )  # fmt: skip
    return provenance.as_python(record, parcel.model)


def _explain_code(parcel: Parcel) -> None:
    hints = ["It gives the numbers shown here."]
    if parcel.picture.sample is None:
        hints.append("Put the path of your picture in.")
    if any(explanation.concepts for explanation in parcel.explanations):
        hints.append("The files of the concepts are in the ZIP.")
    st.caption(" ".join(hints))


def address() -> str:
    """The address of what is shown: the page, and what ``_links`` has put behind it."""
    pairs = [(name, value) for name in st.query_params for value in st.query_params.get_all(name)]
    here = urlsplit(st.context.url or "")
    query = urlencode(pairs)
    return here._replace(path=here.path or "/", query=query, fragment="").geturl()


def _show_address(parcel: Parcel) -> None:
    if parcel.picture.sample is None:
        st.caption("Your own picture is in no link, so there is none to what you see. The ZIP can "
                   "be checked by whoever has the picture.")  # fmt: skip
        return
    if not _links.can_be_shared(parcel.picture):
        st.caption("A model that you taught is in no link: it is in this visit alone. Download it "
                   "on the page “Teach it” to pass it on.")  # fmt: skip
        return
    st.code(address(), language=None)
    st.caption("It opens this sample with these choices, on this server.")
