"""What can be taken home from a page: one table of files, and one row of buttons.

Pages hand over what they show (``_panels.Shown``); the rows of ``FILES`` make files of it. A file
is made when it is asked for, so a row costs nothing until its button is pressed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import streamlit as st

from cdam_core.methods import METHODS
from cdam_core.pictures import panel
from pages import _gate
from pages._panels import Shown, beyond_scale
from pages._words import file_name

PREFIXES = {"compare": "cdam", "concepts": "cdam_concepts"}  # page -> how its files begin


@dataclass(frozen=True)
class File:
    """One kind of file.

    Attributes:
        label: on its button.
        suffix: of its name, without the dot.
        mime: its media type.
        make: called with what is shown, in a thread without a page: no ``st.*`` in it.
    """

    label: str
    suffix: str
    mime: str
    make: Callable[[Shown], bytes | str]


def _picture(shown: Shown) -> bytes:
    """The panels as a picture."""
    look, prepared, drawn = shown.look, shown.prepared, shown.drawn
    if not METHODS[drawn.method].class_specific:
        names = tuple(f"one map for every class · {label}" for label in drawn.labels)
        drawn = replace(drawn, labels=names)
    return panel(
        prepared.view, drawn, shown.scale, look.palette, look.opacity, look.smooth,
        scale_note=beyond_scale(shown.drawn, shown.scale),
        outlines=prepared.outlines if look.outlines else None,
    )  # fmt: skip


FILES: tuple[File, ...] = (
    File("Picture (PNG)", "png", "image/png", _picture),
    File("Scores (NPZ)", "npz", "application/octet-stream",
         lambda shown: shown.explanation.to_npz()),
    File("Scores (CSV)", "csv", "text/csv", lambda shown: shown.explanation.to_csv()),
)  # fmt: skip


def offer_downloads(shown: Shown) -> None:
    """A button for every row of ``FILES``."""
    buttons(
        shown.page,
        name_parts(shown),
        ((file.label, file.suffix, file.mime, partial(file.make, shown)) for file in FILES),
    )


def name_parts(shown: Shown) -> list[str]:
    """What the name of a file says: model, method, targets, and whether data are simulated."""
    explanation = shown.explanation
    targets = zip(explanation.labels, explanation.targets, strict=True)
    names = [label for label, target in targets if target["kind"] != "contrast"]
    return [
        PREFIXES[shown.page],
        explanation.model_id.removeprefix("timm:"),
        *([] if explanation.method == "cdam" else [explanation.method]),
        *(names if METHODS[explanation.method].class_specific else []),
        *(["simulated"] if explanation.simulated else []),
    ]


def buttons(
    page: str,
    parts: Sequence[str],
    offers: Iterable[tuple[str, str, str, Callable[[], bytes | str]]],
) -> None:
    """A row of download buttons.

    Args:
        page: start of the keys of the widgets.
        parts: of every file's name.
        offers: (label, suffix, media type, function that makes the content).
    """
    with st.container(horizontal=True):
        for label, suffix, mime, make in offers:
            st.download_button(
                label, _gate.on_behalf(make), file_name(list(parts), suffix), mime,
                on_click="ignore", icon=":material/download:", key=f"{page}.download.{suffix}",
            )  # fmt: skip
