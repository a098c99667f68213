"""What the viewer shows of concepts: captions, scale and tooltip speak of similarities."""

from typing import Any

import numpy as np

import cdam_core as cdam
from cdam_core.pictures import draw, legend, palette_for
from pages import _panels
from pages._panels import Look, data_url
from pages._state import Prepared
from pages._words import decimals_for, signed

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
    rows, cols = explanation.grid
    sources = _panels.draw_panels(prepared, explanation, look, scale)
    panels = [
        {"src": sources[0], "badge": "", "title": "What the model saw",
         "note": f"{rows} × {cols} patches", "alt": "The picture as the model saw it"}
    ]  # fmt: skip
    panels += [
        {"src": source, **_caption(explanation, index)} for index, source in enumerate(sources[1:])
    ]
    return {
        "panels": panels,
        "scale": _scale_bar(explanation, look, scale, note),
        "grid": [rows, cols],
        "selected": list(patch),
        "label": f"Patches of all maps, {rows} rows and {cols} columns. Arrow keys move, Enter "
        "marks a patch, Escape leaves.",
        **_tooltip(explanation, scale),
    }


def _caption(explanation: cdam.Explanation, index: int) -> dict[str, str]:
    label, target = explanation.labels[index], explanation.targets[index]
    value = value_text(explanation.values[index])
    row, col = _panels.strongest_patch(explanation, index)
    alt = f"Map of {label}, similarity {value}; strongest in row {row + 1}, column {col + 1}"
    if target["kind"] == "contrast":
        return {"badge": "A − B", "title": label, "note": f"difference {value}", "alt": alt}
    return {"badge": letter_of(explanation, index), "title": label, "note": f"similarity {value}",
            "alt": alt}  # fmt: skip


def letter_of(explanation: cdam.Explanation, index: int) -> str:
    """A, B, … of a target; none for a single one."""
    single = [i for i, t in enumerate(explanation.targets) if t["kind"] != "contrast"]
    return LETTERS[single.index(index)] if len(single) > 1 else ""


def _scale_bar(
    explanation: cdam.Explanation, look: Look, scale: float, note: str
) -> dict[str, str]:
    end = signed(scale, decimals_for(scale))
    notes = [note]
    if beyond := _panels.beyond_scale(explanation, scale):
        notes.append(f"{beyond}.")
    if explanation.simulated:
        card = cdam.MODELS.get(explanation.model_id, {})
        notes.append(f"Simulated training data: {card.get('simulated_note', 'no real pictures')}.")
    return {
        "src": data_url(legend(scale, palette_for(explanation.method, look.palette))),
        "alt": f"Colour scale from −{end[1:]} over zero to {end}",
        "low": f"less similar  −{end[1:]}",
        "high": f"{end}  more similar",
        "note": " ".join(notes),
    }


def _tooltip(explanation: cdam.Explanation, scale: float) -> dict[str, Any]:
    decimals, patches = decimals_for(scale), explanation.content.size
    return {
        "decimals": decimals,
        "names": [],
        "content": explanation.content.ravel().astype(int).tolist(),
        "shown": [
            {"name": label, "values": np.round(scores.ravel(), decimals).tolist()}
            for label, scores in zip(explanation.labels, explanation.scores, strict=True)
        ],
        "supported": [[]] * patches,
        "opposed": [[]] * patches,
    }


def small_map(prepared: Prepared, explanation: cdam.Explanation, index: int, look: Look) -> str:
    """Data URL of one map on its own scale, for lists."""
    scale = _panels.shared_scale(explanation)
    picture = draw(prepared.view, explanation, index, scale, look.palette, look.opacity)
    picture.thumbnail((224, 224))
    return data_url(picture)
