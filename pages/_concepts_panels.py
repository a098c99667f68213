"""What the viewer shows of concepts: captions, scale and tooltip speak of similarities."""

from typing import Any

import cdam_core as cdam
from cdam_core.pictures import draw
from pages import _panels
from pages._panels import Look, data_url
from pages._state import Prepared
from pages._words import signed

# id -> label, unit on the scale, one line of explanation
SIMILARITIES: dict[str, tuple[str, str, str]] = {
    "dot": ("Dot product", "dot product",
            "How far the picture reaches in the concept's direction, its strength included "
            "(the paper's choice)."),
    "cosine": ("Cosine", "cosine",
               "The direction alone, from −1 to 1; how strongly it shows does not count."),
    "l2": ("Distance", "distance",
           "Minus the distance to the mean example: 0 is the same point, everything else is "
           "negative."),
}  # fmt: skip
LETTERS = "ABCD"


def value_text(value: float) -> str:
    """A similarity as text, with as many digits as tell pictures apart."""
    return signed(value, 1 if abs(value) >= 100 else 2)


def viewer_data(
    prepared: Prepared,
    explanation: cdam.Explanation,
    look: Look,
    patch: tuple[int, int],
    scale: float,
    note: str,
) -> dict[str, Any]:
    """Everything that the viewer component needs; JSON-able."""
    captions = [_caption(explanation, index) for index in range(len(explanation.labels))]
    bar = _panels.scale_bar(explanation, look, scale, note, ("less similar", "more similar"))
    return _panels.viewer_data(prepared, explanation, look, patch, scale, captions, bar)


def _caption(explanation: cdam.Explanation, index: int) -> dict[str, str]:
    label, target = explanation.labels[index], explanation.targets[index]
    value = value_text(explanation.values[index])
    alt = _panels.alt_text(explanation, index, f"{label}, similarity {value}")
    if target["kind"] == "contrast":
        return _panels.caption("A − B", label, f"difference {value}", alt)
    return _panels.caption(letter_of(explanation, index), label, f"similarity {value}", alt)


def letter_of(explanation: cdam.Explanation, index: int) -> str:
    """A, B, … of a target; none for a single one."""
    single = [i for i, t in enumerate(explanation.targets) if t["kind"] != "contrast"]
    return LETTERS[single.index(index)] if len(single) > 1 else ""


def small_map(prepared: Prepared, explanation: cdam.Explanation, index: int, look: Look) -> str:
    """Data URL of one map on its own scale, for lists."""
    scale = _panels.shared_scale(explanation)
    picture = draw(prepared.view, explanation, index, scale, look.palette, look.opacity)
    picture.thumbnail((224, 224))
    return data_url(picture)
